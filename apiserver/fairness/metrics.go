package fairness

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reason is why a request was refused.
type reason int

const (
	queueFull reason = iota
	concurrencyLimit
	timeOut
	reasons
	none reason = -1
)

var reasonNames = [reasons]string{"queue-full", "concurrency-limit", "time-out"}

// counts are what is known about the requests of one schema at one level.
type counts struct {
	dispatched                atomic.Uint64
	executing, seats, waiting atomic.Int64
	rejected                  [reasons]atomic.Uint64
	waited, gaveUp            prometheus.Observer // seconds until it was executed or refused; exempt requests aside
}

func (c *counts) start(seats int) {
	c.dispatched.Add(1)
	c.executing.Add(1)
	c.seats.Add(int64(seats))
}

func (c *counts) end(seats int) {
	c.executing.Add(-1)
	c.seats.Add(-int64(seats))
}

func (c *counts) wait(executed bool, d time.Duration) {
	o := c.gaveUp
	if executed {
		o = c.waited
	}
	o.Observe(d.Seconds())
}

const metricPrefix = "apiserver_flowcontrol_"

// waits is the one histogram; everything else is read off when somebody asks.
type waits struct{ *prometheus.HistogramVec }

func newWaits() *waits {
	return &waits{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: metricPrefix + "request_wait_duration_seconds", Help: "Length of time a request spent waiting in its queue.",
		Buckets: []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
	}, []string{"priority_level", "flow_schema", "execute"})}
}

func (w *waits) counts(level, schema string) *counts {
	return &counts{waited: w.WithLabelValues(level, schema, "true"), gaveUp: w.WithLabelValues(level, schema, "false")}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricPrefix+name, help, append([]string{"priority_level"}, labels...), nil)
}

// descs are named as upstream's.
type descs struct{ rejected, dispatched, inqueue, executing, seats, nominal, lower, upper, current *prometheus.Desc }

// Collector reads the dispatcher's metrics.
type Collector struct {
	dispatcher *Dispatcher
	descs      descs
}

var _ prometheus.Collector = (*Collector)(nil)

// Collector makes a collector for a registry.
func (d *Dispatcher) Collector() *Collector {
	return &Collector{d, descs{
		rejected:   desc("rejected_requests_total", "Requests that were refused, by reason.", "flow_schema", "reason"),
		dispatched: desc("dispatched_requests_total", "Requests that were executed.", "flow_schema"),
		inqueue:    desc("current_inqueue_requests", "Requests that wait.", "flow_schema"),
		executing:  desc("current_executing_requests", "Requests that are executed; of a watch only its start.", "flow_schema"),
		seats:      desc("current_executing_seats", "Seats of the requests that are executed.", "flow_schema"),
		nominal:    desc("nominal_limit_seats", "The level's share of the server's seats."),
		lower:      desc("lower_limit_seats", "Seats that the level does not lend."),
		upper:      desc("upper_limit_seats", "Seats that the level may have with those it borrows."),
		current:    desc("current_limit_seats", "Seats that the level could have at this moment."),
	}}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(desc *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	for _, s := range c.dispatcher.current.Load().ordered {
		level, n := s.level.name, s.counts
		counter(c.descs.dispatched, n.dispatched.Load(), level, s.name)
		gauge(c.descs.inqueue, n.waiting.Load(), level, s.name)
		gauge(c.descs.executing, n.executing.Load(), level, s.name)
		gauge(c.descs.seats, n.seats.Load(), level, s.name)
		for i := range n.rejected {
			counter(c.descs.rejected, n.rejected[i].Load(), level, s.name, reasonNames[i])
		}
	}
	for _, l := range c.dispatcher.state() {
		gauge(c.descs.nominal, int64(l.nominal), l.name)
		gauge(c.descs.lower, int64(l.min), l.name)
		gauge(c.descs.upper, int64(l.max), l.name)
		gauge(c.descs.current, int64(l.current), l.name)
	}
	c.dispatcher.waits.Collect(ch)
}
