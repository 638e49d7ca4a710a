package fairness

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// level is a priority level. All but its name and exempt is guarded by the dispatcher's mu.
type level struct {
	name   string
	exempt bool

	uid    types.UID
	share  share
	length int                     // of each queue
	dealer *shufflesharding.Dealer // nil: who finds no seat is refused
	limits
	listed  bool // among the dispatcher's levels
	leaving bool // its object has gone

	inUse   int // seats
	running int // requests
	waiting int // requests
	queues  []*queue
	busy    []*queue // those where requests wait, in no order
	clock   uint64   // turn of the queue that was last served
	last    uint64   // ticket of the last start

	dispatched, rejected, timedOut uint64
}

// queue holds requests of the flows that were dealt it. Without a dealer there is one.
type queue struct {
	index int
	inUse int // seats
	line  []*waiter
	width int    // seats that wait
	turn  uint64 // seats it has had, or would have had while it was idle if it had taken part
}

// waiter is a request without a seat.
type waiter struct {
	schema *Schema
	level  *level
	queue  *queue
	seats  int
	start  chan struct{} // closed when it has its seats
	placed bool
}

// configure follows the level's object. An object that cannot be followed changes nothing.
func (l *level) configure(o *flowcontrolv1.PriorityLevelConfiguration) error {
	if (o.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (o.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		return fmt.Errorf("type %q", o.Spec.Type)
	}
	var s share
	if e := o.Spec.Exempt; e != nil && l.exempt {
		s = share{nominal: value(e.NominalConcurrencyShares, 0), lendable: value(e.LendablePercent, 0)}
	}
	length, queues := 0, 1
	var dealer *shufflesharding.Dealer
	if !l.exempt {
		limited := o.Spec.Limited
		if limited == nil {
			return fmt.Errorf("limited is missing")
		}
		s = share{nominal: value(limited.NominalConcurrencyShares, 30), lendable: value(limited.LendablePercent, 0), borrowing: limited.BorrowingLimitPercent}
		if q := limited.LimitResponse.Queuing; q != nil {
			var err error
			if dealer, err = shufflesharding.NewDealer(int(q.Queues), int(q.HandSize)); err != nil {
				return err
			}
			length, queues, s.hand = int(q.QueueLengthLimit), int(q.Queues), q.HandSize
		}
	}
	l.uid, l.share, l.length, l.dealer = o.UID, s, length, dealer
	// Queues that are gone are served on as long as somebody waits there: they are in busy.
	old := l.queues
	l.queues = make([]*queue, queues)
	copy(l.queues, old)
	return nil
}

func value(p *int32, otherwise int32) int32 {
	if p == nil {
		return otherwise
	}
	return *p
}

// dealt is the emptiest of a flow's queues.
func (l *level) dealt(hash uint64) *queue {
	index := -1
	var best *queue
	if l.dealer == nil {
		index, best = 0, l.queues[0]
	} else {
		l.dealer.Deal(hash, func(i int) {
			q := l.queues[i]
			if index < 0 || best != nil && (q == nil || q.width < best.width || q.width == best.width && q.inUse < best.inUse) {
				index, best = i, q
			}
		})
	}
	if best == nil {
		best = &queue{index: index}
		l.queues[index] = best
	}
	if best.inUse == 0 && len(best.line) == 0 { // being idle earns nothing
		best.turn = max(best.turn, l.clock)
	}
	return best
}

// next is the queue whose turn it is; there is one.
func (l *level) next() *queue {
	best := l.busy[0]
	for _, q := range l.busy[1:] {
		if q.inUse < best.inUse || q.inUse == best.inUse && q.turn < best.turn {
			best = q
		}
	}
	return best
}

// part is how much of its nominal seats a level has in use; what has none of its own only borrows.
func (l *level) part() float64 {
	if l.nominal == 0 {
		return float64(l.inUse + 1)
	}
	return float64(l.inUse) / float64(l.nominal)
}

func (l *level) idle() bool { return l.running == 0 && l.waiting == 0 }
