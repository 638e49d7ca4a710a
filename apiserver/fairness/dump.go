package fairness

import (
	"bytes"
	"fmt"
	"io"
	"text/tabwriter"
)

// levelState is a level as it was at one moment.
type levelState struct {
	level
	current int // seats it could have
}

// state copies what the levels are at; their queues are not to be followed.
func (d *Dispatcher) state() []levelState {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]levelState, len(d.levels))
	for i, l := range d.levels {
		out[i] = levelState{level: *l, current: min(l.max, max(l.inUse, l.min)+max(0, d.total-d.held))}
	}
	return out
}

// DumpLevels writes a line about each priority level, in upstream's columns.
func (d *Dispatcher) DumpLevels(w io.Writer) error {
	t := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
	fmt.Fprintln(t, "PriorityLevelName,\tActiveQueues,\tIsIdle,\tIsQuiescing,\tWaitingRequests,\tExecutingRequests,\tDispatchedRequests,\tRejectedRequests,\tTimedoutRequests,\tCancelledRequests") //nolint:errcheck // Flush says
	for _, l := range d.state() {
		running, dispatched := l.running, l.dispatched
		if l.exempt {
			running, dispatched = d.exempted()
		}
		fmt.Fprintf(t, "%s,\t%d,\t%v,\t%v,\t%d,\t%d,\t%d,\t%d,\t%d,\t%d\n", //nolint:errcheck // Flush says
			l.name, len(l.busy), running == 0 && l.waiting == 0, l.leaving, l.waiting, running, dispatched, l.rejected, 0, l.timedOut)
	}
	return t.Flush()
}

// exempted are the requests that the levels do not count.
func (d *Dispatcher) exempted() (running int, dispatched uint64) {
	for _, s := range d.current.Load().ordered {
		if s.Exempt() {
			running += int(s.counts.executing.Load())
			dispatched += s.counts.dispatched.Load()
		}
	}
	return running, dispatched
}

// DumpQueues writes a line about each queue that has had a request, in those of upstream's columns that mean something here.
func (d *Dispatcher) DumpQueues(w io.Writer) error {
	var page bytes.Buffer // nobody waits for who reads it
	t := tabwriter.NewWriter(&page, 8, 0, 1, ' ', 0)
	fmt.Fprintln(t, "PriorityLevelName,\tIndex,\tPendingRequests,\tSeatsInUse,\tSeatsWaiting") //nolint:errcheck // Flush says
	d.mu.Lock()
	for _, l := range d.levels {
		for _, q := range l.queues {
			if q != nil {
				fmt.Fprintf(t, "%s,\t%d,\t%d,\t%d,\t%d\n", l.name, q.index, len(q.line), q.inUse, q.width) //nolint:errcheck // as above; memory
			}
		}
	}
	d.mu.Unlock()
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := page.WriteTo(w)
	return err
}
