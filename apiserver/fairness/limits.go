package fairness

import "math"

// share is what a priority level says about its part of the seats.
type share struct {
	nominal   int32  // shares
	lendable  int32  // percent of the nominal seats
	borrowing *int32 // percent of the nominal seats; nil is all there are
	hand      int32  // of queues for each flow; 0 without queues
}

// limits are a level's seats.
type limits struct {
	nominal, min, max int
	widest            int // seats that one request may count for
}

// widest is the most seats that any request counts for, and widestPart the most of its level's nominal ones: upstream's.
const (
	widest     = 10
	widestPart = 0.15
)

// divide gives each level its part of the server's seats, rounded up: together they may be a few more.
func divide(seats int, shares []share) []limits {
	sum := 0.0
	for _, s := range shares {
		sum += float64(s.nominal)
	}
	out := make([]limits, len(shares))
	for i, s := range shares {
		l := &out[i]
		if s.nominal > 0 {
			l.nominal = int(math.Ceil(float64(seats) * float64(s.nominal) / sum))
		}
		percent := func(p int32) int { return int(math.Round(float64(l.nominal) * float64(p) / 100)) }
		l.min = l.nominal - percent(min(s.lendable, 100))
		if s.borrowing != nil {
			l.max = l.nominal + percent(*s.borrowing)
		} else {
			l.max = l.nominal + seats
		}
		l.widest = int(math.Ceil(float64(l.nominal) * widestPart))
		if s.hand > 0 {
			l.widest = min(l.widest, l.nominal/int(s.hand))
		}
		l.widest = min(max(1, l.widest), widest)
	}
	return out
}
