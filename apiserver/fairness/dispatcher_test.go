package fairness

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"pgregory.net/rapid"
)

func TestDivide(t *testing.T) {
	percent := func(n int32) *int32 { return &n }
	for name, c := range map[string]struct {
		seats  int
		shares []share
		want   []limits
	}{
		"usual": {600, []share{{nominal: 30, lendable: 33, hand: 6}, {nominal: 100, lendable: 90, hand: 6}, {nominal: 5}, {nominal: 110, hand: 1}}, []limits{
			{nominal: 74, min: 50, max: 674, widest: 10}, {nominal: 245, min: 24, max: 845, widest: 10}, {nominal: 13, min: 13, max: 613, widest: 2}, {nominal: 270, min: 270, max: 870, widest: 10},
		}},
		"hand":      {60, []share{{nominal: 1, hand: 8}, {nominal: 1, hand: 6}}, []limits{{nominal: 30, min: 30, max: 90, widest: 3}, {nominal: 30, min: 30, max: 90, widest: 5}}},
		"borrowing": {10, []share{{nominal: 1, lendable: 50, borrowing: percent(20)}, {nominal: 1, borrowing: percent(0)}}, []limits{{nominal: 5, min: 2, max: 6, widest: 1}, {nominal: 5, min: 5, max: 5, widest: 1}}},
		"nothing":   {10, []share{{nominal: 0, borrowing: percent(0)}, {nominal: 0}}, []limits{{widest: 1}, {max: 10, widest: 1}}},
		"few":       {2, []share{{nominal: 1}, {nominal: 1}, {nominal: 1, lendable: 100}}, []limits{{nominal: 1, min: 1, max: 3, widest: 1}, {nominal: 1, min: 1, max: 3, widest: 1}, {nominal: 1, min: 0, max: 3, widest: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := divide(c.seats, c.shares); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// world is a dispatcher with levels of its own: a schema of the same name brings each the users of a group of that name.
func world(t testing.TB, seats int, wait time.Duration, levels map[string]string) *Dispatcher {
	d := New(Config{Seats: seats, Wait: wait})
	set(t, d, levels)
	return d
}

func set(t testing.TB, d *Dispatcher, levels map[string]string) {
	t.Helper()
	var schemas []*flowcontrolv1.FlowSchema
	// The mandatory level gets no seats, so that the others' are all there are.
	objects := []*flowcontrolv1.PriorityLevelConfiguration{priority(t, `{metadata: {name: catch-all}, spec: {type: Limited, limited: {nominalConcurrencyShares: 0, limitResponse: {type: Reject}}}}`)}
	for name, spec := range levels {
		schemas = append(schemas, schema(t, `{metadata: {name: `+name+`}, spec: {matchingPrecedence: 100, priorityLevelConfiguration: {name: `+name+`}, distinguisherMethod: {type: ByUser}, rules: [
			{subjects: [{kind: Group, group: {name: `+name+`}}], resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"]}]}]}}`))
		objects = append(objects, priority(t, `{metadata: {name: `+name+`}, spec: {type: Limited, limited: `+spec+`}}`))
	}
	d.Set(schemas, objects)
}

const (
	queues = `, limitResponse: {type: Queue, queuing: {queues: 64, handSize: 4, queueLengthLimit: 50}}}`
	reject = `, limitResponse: {type: Reject}}`
)

var pods = ask("get", "", "default", "pods", "")

func enter(ctx context.Context, d *Dispatcher, level, name string, seats int) (Seat, bool) {
	u := &user.DefaultInfo{Name: name, Groups: []string{level}}
	return d.Enter(ctx, d.Classify(u, pods), u, pods, seats)
}

func must(t testing.TB, d *Dispatcher, level, name string, seats int) Seat {
	t.Helper()
	seat, ok := enter(t.Context(), d, level, name, seats)
	if !ok {
		t.Fatalf("%s of %s was refused", name, level)
	}
	return seat
}

func (d *Dispatcher) find(name string) levelState {
	for _, l := range d.state() {
		if l.name == name {
			return l
		}
	}
	return levelState{}
}

// TestFloodDoesNotStarve: while one user keeps all seats and full queues, a request of another waits for one seat only.
func TestFloodDoesNotStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 10 * time.Millisecond
		d := world(t, 4, 15*time.Second, map[string]string{"l": `{nominalConcurrencyShares: 1, limitResponse: {type: Queue, queuing: {queues: 512, handSize: 4, queueLengthLimit: 10}}}`})
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		var served, refused int
		var mu sync.Mutex
		for range 200 { // more than seats and queues hold
			group.Go(func() {
				for ctx.Err() == nil {
					seat, ok := enter(ctx, d, "l", "flood", 1)
					mu.Lock()
					if ok {
						served++
					} else {
						refused++
					}
					mu.Unlock()
					time.Sleep(takes)
					seat.Leave()
				}
			})
		}
		synctest.Wait()
		for range 50 {
			begun := time.Now()
			seat := must(t, d, "l", "calm", 1)
			if waited := time.Since(begun); waited > takes {
				t.Fatalf("waited %v for a seat", waited)
			}
			time.Sleep(takes)
			seat.Leave()
		}
		stop()
		group.Wait()
		if served < 50*3 || refused == 0 {
			t.Errorf("the flood was served %d times and refused %d times", served, refused)
		}
		if l := d.find("l"); l.inUse != 0 || l.waiting != 0 || len(l.busy) != 0 || d.waiting != 0 || d.held != l.min {
			t.Errorf("left over: %+v", l)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := world(t, 2, time.Second, map[string]string{
			"q": `{nominalConcurrencyShares: 1, limitResponse: {type: Queue, queuing: {queues: 1, handSize: 1, queueLengthLimit: 1}}}`,
			"r": `{nominalConcurrencyShares: 1` + reject,
		})
		first, only := must(t, d, "q", "a", 1), must(t, d, "r", "a", 1)
		if _, ok := enter(t.Context(), d, "r", "b", 1); ok {
			t.Error("a level without queues let somebody in")
		}
		done := make(chan bool, 1)
		go func() { _, ok := enter(t.Context(), d, "q", "a", 1); done <- ok }()
		synctest.Wait()
		if _, ok := enter(t.Context(), d, "q", "b", 1); ok {
			t.Error("a full queue took one more")
		}
		begun := time.Now()
		if <-done || time.Since(begun) != time.Second {
			t.Errorf("a wait ended after %v", time.Since(begun))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, ok := enter(ctx, d, "q", "b", 1); done <- ok }()
		synctest.Wait()
		cancel()
		if <-done {
			t.Error("a request whose client has gone got a seat")
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(d.Collector())
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		rejected := map[string]float64{}
		for _, f := range families {
			if f.GetName() == "apiserver_flowcontrol_rejected_requests_total" {
				for _, m := range f.Metric {
					var key []string
					for _, l := range m.Label {
						key = append(key, l.GetValue())
					}
					if v := m.Counter.GetValue(); v > 0 {
						rejected[strings.Join(key, " ")] = v
					}
				}
			}
		}
		if want := map[string]float64{"q q queue-full": 1, "q q time-out": 2, "r r concurrency-limit": 1}; fmt.Sprint(rejected) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", rejected, want)
		}
		var levels, queues strings.Builder
		line := func(page string) string { return strings.Join(strings.Fields(page[strings.Index(page, "\nq,"):]), " ") }
		if err := d.DumpLevels(&levels); err != nil || !strings.HasPrefix(line(levels.String()), "q, 0, false, false, 0, 1, 1, 3, 0, 2 ") {
			t.Errorf("%v\n%s", err, levels.String())
		}
		if err := d.DumpQueues(&queues); err != nil || !strings.HasPrefix(line(queues.String()), "q, 0, 0, 1, 0 ") {
			t.Errorf("%v\n%s", err, queues.String())
		}
		first.Leave()
		first.Leave() // does nothing
		only.Leave()
		seat := must(t, d, "q", "c", 1)
		seat.Leave()
	})
}

// TestBorrowing: seats that a level lends are others' while it does not want them, and its again as they come back.
func TestBorrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := world(t, 10, time.Minute, map[string]string{
			"a": `{nominalConcurrencyShares: 5, lendablePercent: 60` + queues,
			"b": `{nominalConcurrencyShares: 5, lendablePercent: 0` + queues,
		})
		var b []Seat
		for i := range 8 { // five of its own and three that a lends
			b = append(b, must(t, d, "b", fmt.Sprint("b", i), 1))
		}
		started := make(chan string, 20)
		wait := func(level string, n int) {
			for i := range n {
				go func() {
					if _, ok := enter(t.Context(), d, level, fmt.Sprint("w", i), 1); ok {
						started <- level
					}
				}()
			}
			synctest.Wait()
		}
		wait("b", 4)
		if len(started) != 0 {
			t.Fatal("b took more than is lent")
		}
		wait("a", 6)
		if len(started) != 2 || d.find("a").inUse != 2 {
			t.Fatalf("a has %d seats, not the two that it does not lend", d.find("a").inUse)
		}
		for i := range 3 { // a is below its nominal five: what b gives back is a's
			b[i].Leave()
			synctest.Wait()
			if got := d.find("a").inUse; got != 3+i {
				t.Fatalf("after %d seats came back a has %d", i+1, got)
			}
		}
		b[3].Leave() // both at their nominal: it is b's own
		synctest.Wait()
		if a, b := d.find("a"), d.find("b"); a.inUse != 5 || a.waiting != 1 || b.inUse != 5 || b.waiting != 3 {
			t.Fatalf("a %d and %d waiting, b %d and %d waiting", a.inUse, a.waiting, b.inUse, b.waiting)
		}
		time.Sleep(time.Minute) // those who wait give up
		synctest.Wait()
		if d.waiting != 0 {
			t.Errorf("%d wait on", d.waiting)
		}
	})
}

// TestWide: a request of many seats is not overtaken for ever by those of one.
func TestWide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := world(t, 40, time.Minute, map[string]string{
			"a": `{nominalConcurrencyShares: 1, lendablePercent: 100` + queues,
			"b": `{nominalConcurrencyShares: 1, lendablePercent: 100` + queues,
		})
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				for ctx.Err() == nil {
					seat, _ := enter(ctx, d, "b", fmt.Sprint(i), 1)
					time.Sleep(time.Duration(10+i) * time.Millisecond)
					seat.Leave()
				}
			})
		}
		synctest.Wait()
		for range 20 {
			begun := time.Now()
			seat := must(t, d, "a", "wide", 100)
			if seat.seats != 3 { // min(15 % of 20, 20 / hand of 4)
				t.Fatalf("%d seats", seat.seats)
			}
			if waited := time.Since(begun); waited > 200*time.Millisecond {
				t.Errorf("waited %v", waited)
			}
			seat.Leave()
		}
		stop()
		group.Wait()
	})
}

// TestChanges: levels come, go and change while requests are under way and waiting.
func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		some := func(spec string) map[string]string { return map[string]string{"l": spec} }
		d := world(t, 2, time.Minute, some(`{nominalConcurrencyShares: 2`+queues))
		first, second := must(t, d, "l", "a", 1), must(t, d, "l", "b", 1)
		got := make(chan Seat, 10)
		for i := range 3 {
			go func() { got <- must(t, d, "l", fmt.Sprint(i), 1) }()
		}
		synctest.Wait()
		u := &user.DefaultInfo{Name: "late", Groups: []string{"l"}}
		old := d.Classify(u, pods)
		set(t, d, nil) // deleted: those who wait are served all the same
		if l := d.find("l"); !l.leaving || l.nominal != 2 || l.waiting != 3 {
			t.Fatalf("%+v", l)
		}
		first.Leave()
		synctest.Wait()
		(<-got).release()
		second.Leave()
		synctest.Wait()
		(<-got).release()
		(<-got).release()
		if l := d.find("l"); l.name != "" || d.total != 0 {
			t.Errorf("%d seats, %+v", d.total, l)
		}
		if _, ok := d.Enter(t.Context(), old, u, pods, 1); ok || old.level.listed { // goes where it belongs now: to catch-all, which has none
			t.Errorf("a level that is gone was used: %v", ok)
		}

		set(t, d, some(`{nominalConcurrencyShares: 2`+reject)) // with queues, without, and with again
		first, second = must(t, d, "l", "a", 1), must(t, d, "l", "b", 1)
		if _, ok := enter(t.Context(), d, "l", "c", 1); ok {
			t.Error("no seat was free")
		}
		set(t, d, some(`{nominalConcurrencyShares: 2`+queues))
		go func() { got <- must(t, d, "l", "c", 1) }()
		synctest.Wait()
		set(t, d, some(`{nominalConcurrencyShares: 2, limitResponse: {type: Queue, queuing: {queues: 1, handSize: 1, queueLengthLimit: 1}}}`))
		first.Leave()
		(<-got).release()
		second.Leave()
		if l := d.find("l"); l.inUse != 0 || l.waiting != 0 || l.running != 0 {
			t.Errorf("%+v", l)
		}
	})
}

func (t Seat) release() { t.Leave() }

// TestJail: a level of no seats that borrows none holds its requests until they give up, and others do not notice.
func TestJail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := world(t, 2, time.Second, map[string]string{
			"jail": `{nominalConcurrencyShares: 0, borrowingLimitPercent: 0` + queues,
			"free": `{nominalConcurrencyShares: 1, lendablePercent: 100` + queues,
		})
		done := make(chan bool, 1)
		go func() { _, ok := enter(t.Context(), d, "jail", "a", 1); done <- ok }()
		synctest.Wait()
		one, two := must(t, d, "free", "a", 1), must(t, d, "free", "b", 1)
		one.Leave()
		two.Leave()
		begun := time.Now()
		if <-done || time.Since(begun) != time.Second {
			t.Errorf("ended after %v", time.Since(begun))
		}
	})
}

// TestSeats: whatever comes, goes and is configured, limits hold, nobody waits for what is free, and in the end all have
// been served or have ended their wait.
func TestSeats(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			configure := func() map[string]string {
				levels := map[string]string{}
				for _, name := range names {
					if rapid.IntRange(0, 4).Draw(rt, "there") == 0 {
						continue
					}
					spec := fmt.Sprintf(`{nominalConcurrencyShares: %d, lendablePercent: %d`, rapid.IntRange(1, 4).Draw(rt, "shares"), rapid.SampledFrom([]int{0, 50, 100}).Draw(rt, "lendable"))
					if p := rapid.IntRange(-1, 2).Draw(rt, "borrowing"); p >= 0 {
						spec += fmt.Sprintf(`, borrowingLimitPercent: %d`, p*50)
					}
					levels[name] = spec + fmt.Sprintf(`, limitResponse: {type: Queue, queuing: {queues: %d, handSize: 1, queueLengthLimit: 5}}}`, rapid.IntRange(1, 8).Draw(rt, "queues"))
				}
				return levels
			}
			d := world(t, rapid.IntRange(1, 30).Draw(rt, "seats"), time.Minute, configure())
			var mu sync.Mutex
			var seats []Seat
			entered, ended := 0, 0
			step := func(what string) {
				synctest.Wait()
				d.mu.Lock()
				defer d.mu.Unlock()
				held, total, waiting := 0, 0, 0
				for _, l := range d.levels {
					inUse, width, lines := 0, 0, 0
					seen := map[*queue]bool{}
					for _, q := range append(l.busy[:len(l.busy):len(l.busy)], l.queues...) {
						if q != nil && !seen[q] {
							seen[q] = true
							width, lines = width+q.width, lines+len(q.line)
						}
					}
					for _, s := range seats {
						if s.schema.level == l {
							inUse += s.seats
						}
					}
					if l.inUse != inUse || l.waiting != lines || width < lines {
						rt.Fatalf("%s: level %s: %d seats in use counted as %d, %d requests in %d seats waiting counted as %d", what, l.name, inUse, l.inUse, lines, width, l.waiting)
					}
					held, total, waiting = held+max(inUse, l.min), total+l.nominal, waiting+lines
				}
				if d.held != held || d.total != total || d.waiting != waiting {
					rt.Fatalf("%s: held %d for %d, total %d for %d, waiting %d for %d", what, d.held, held, d.total, total, d.waiting, waiting)
				}
				if w := d.chooseLocked(); w != nil {
					rt.Fatalf("%s: %+v waits for what is free", what, w)
				}
			}
			for range rapid.IntRange(1, 25).Draw(rt, "steps") {
				switch action := rapid.IntRange(0, 9).Draw(rt, "action"); {
				case action == 0:
					set(t, d, configure())
					step("configure")
				case action < 7:
					name, who, n := rapid.SampledFrom(names).Draw(rt, "level"), rapid.SampledFrom(names).Draw(rt, "user"), rapid.IntRange(1, 5).Draw(rt, "width")
					before := map[string]levelState{}
					for _, l := range d.state() {
						before[l.name] = l
					}
					heldBefore := d.held
					entered++
					go func() {
						seat, ok := enter(t.Context(), d, name, who, n)
						mu.Lock()
						defer mu.Unlock()
						if ended++; ok {
							seats = append(seats, seat)
						}
					}()
					step("enter")
					for _, l := range d.state() { // an arrival takes nobody beyond a limit
						if l.inUse > before[l.name].inUse && l.inUse > l.max {
							rt.Fatalf("%s has %d seats of at most %d", l.name, l.inUse, l.max)
						}
					}
					if d.held > heldBefore && d.held > d.total {
						rt.Fatalf("%d seats of %d", d.held, d.total)
					}
				case len(seats) > 0:
					i := rapid.IntRange(0, len(seats)-1).Draw(rt, "which")
					seat := seats[i]
					seats = append(seats[:i], seats[i+1:]...)
					seat.Leave()
					step("leave")
				}
			}
			for len(seats) > 0 {
				mu.Lock()
				seat := seats[0]
				seats = seats[1:]
				mu.Unlock()
				seat.Leave()
				step("drain")
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if ended != entered || d.waiting != 0 {
				rt.Fatalf("%d of %d requests have ended, %d wait", ended, entered, d.waiting)
			}
		})
	})
}

// TestEverybodyProgresses: with every level and flow asking for more than there is, all of them are served.
func TestEverybodyProgresses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			levels := map[string]string{}
			for _, name := range []string{"a", "b", "c"} {
				levels[name] = fmt.Sprintf(`{nominalConcurrencyShares: %d, lendablePercent: %d`, rapid.IntRange(1, 9).Draw(rt, "shares"), rapid.SampledFrom([]int{0, 50, 100}).Draw(rt, "lendable")) + queues
			}
			d := world(t, rapid.IntRange(3, 12).Draw(rt, "seats"), time.Minute, levels)
			ctx, stop := context.WithCancel(t.Context())
			var group sync.WaitGroup
			var mu sync.Mutex
			served := map[string]int{}
			for level := range levels {
				for who := range 3 {
					for range 1 + 6*who { // some ask for more than others
						width := rapid.IntRange(1, 3).Draw(rt, "width")
						takes := time.Duration(rapid.IntRange(1, 10).Draw(rt, "takes")) * time.Millisecond
						group.Go(func() {
							for ctx.Err() == nil {
								seat, ok := enter(ctx, d, level, fmt.Sprint(who), width)
								if ok {
									mu.Lock()
									served[fmt.Sprint(level, who)]++
									mu.Unlock()
								}
								time.Sleep(takes)
								seat.Leave()
							}
						})
					}
				}
			}
			time.Sleep(150 * time.Millisecond)
			stop()
			group.Wait()
			for level := range levels {
				for who := range 3 {
					if served[fmt.Sprint(level, who)] < 1 {
						rt.Fatalf("%s %d was served %d times: %v", level, who, served[fmt.Sprint(level, who)], served)
					}
				}
			}
		})
	})
}
