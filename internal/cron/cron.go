package cron

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // for machines without a time zone database
)

// Schedule says when something is due.
type Schedule struct {
	minute, hour, day, month, weekday uint64 // bit n is set when n matches
	anyDay, anyWeekday                bool
	every                             time.Duration // "@every", 0 otherwise
	location                          *time.Location
}

// field is one of the five and what may stand in it.
type field struct {
	name     string
	min, max int
	names    []string // for min, min+1, …
}

var fields = [5]field{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of month", 1, 31, nil},
	{"month", 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"day of week", 0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

var named = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// Parse reads a schedule. A leading "TZ=" or "CRON_TZ=" names its time zone; without one, times are in the zone that Next is
// asked in.
func Parse(spec string) (*Schedule, error) {
	rest := strings.TrimSpace(spec)
	if rest == "" {
		return nil, errors.New("empty spec string")
	}
	s := &Schedule{}
	if strings.HasPrefix(rest, "TZ=") || strings.HasPrefix(rest, "CRON_TZ=") {
		zone, after, _ := strings.Cut(rest, " ")
		_, zone, _ = strings.Cut(zone, "=")
		location, err := time.LoadLocation(zone)
		if err != nil {
			return nil, fmt.Errorf("provided bad location %s: %w", zone, err)
		}
		s.location, rest = location, strings.TrimSpace(after)
	}
	if duration, ok := strings.CutPrefix(rest, "@every "); ok {
		every, err := time.ParseDuration(duration)
		if err != nil {
			return nil, fmt.Errorf("failed to parse duration %s: %w", rest, err)
		}
		s.every = max(time.Second, every.Truncate(time.Second))
		return s, nil
	}
	if strings.HasPrefix(rest, "@") {
		standard, ok := named[rest]
		if !ok {
			return nil, fmt.Errorf("unrecognized descriptor: %s", rest)
		}
		rest = standard
	}
	parts := strings.Fields(rest)
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("expected exactly %d fields, found %d: %v", len(fields), len(parts), parts)
	}
	for i, to := range []*uint64{&s.minute, &s.hour, &s.day, &s.month, &s.weekday} {
		set, err := fields[i].parse(parts[i])
		if err != nil {
			return nil, err
		}
		*to = set
	}
	s.anyDay, s.anyWeekday = parts[2][0] == '*' || parts[2][0] == '?', parts[4][0] == '*' || parts[4][0] == '?'
	return s, nil
}

// parse reads a list of ranges with steps: "1,4-10/2".
func (f field) parse(text string) (uint64, error) {
	var set uint64
	for part := range strings.SplitSeq(text, ",") {
		bits, err := f.parseRange(part)
		if err != nil {
			return 0, err
		}
		set |= bits
	}
	return set, nil
}

func (f field) parseRange(text string) (uint64, error) {
	span, stepText, stepped := strings.Cut(text, "/")
	low, high, ranged := strings.Cut(span, "-")
	from, to, step := f.min, f.max, 1
	var err error
	if span != "*" && span != "?" {
		if from, err = f.number(low); err != nil {
			return 0, err
		}
		switch {
		case ranged:
			if to, err = f.number(high); err != nil {
				return 0, err
			}
		case !stepped: // "5/15" goes on to the end
			to = from
		}
	}
	if stepped {
		if step, err = number(stepText); err != nil {
			return 0, err
		}
		if step == 0 {
			return 0, fmt.Errorf("step of range should be a positive number: %s", text)
		}
	}
	switch {
	case from < f.min:
		return 0, fmt.Errorf("beginning of range (%d) below minimum (%d): %s", from, f.min, text)
	case to > f.max:
		return 0, fmt.Errorf("end of range (%d) above maximum (%d): %s", to, f.max, text)
	case from > to:
		return 0, fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", from, to, text)
	}
	var set uint64
	for n := from; n <= to; n += step {
		set |= 1 << n
	}
	return set, nil
}

func (f field) number(text string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(text, name) {
			return f.min + i, nil
		}
	}
	return number(text)
}

func number(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", text, err)
	}
	if n < 0 || n > 1000 {
		return 0, fmt.Errorf("number (%d) out of range: %s", n, text)
	}
	return n, nil
}

func (s *Schedule) dayMatches(t time.Time) bool {
	day, weekday := s.day>>t.Day()&1 == 1, s.weekday>>int(t.Weekday())&1 == 1
	if s.anyDay || s.anyWeekday {
		return day && weekday
	}
	return day || weekday
}

// horizon is how far Next looks: far enough for the 29th of February around a year like 2100.
const horizon = 9

// Next is the first time after t that is due, in t's zone; the zero time if there is none (the 30th of February).
func (s *Schedule) Next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Truncate(time.Second).Add(s.every)
	}
	zone := t.Location()
	if s.location != nil {
		t = t.In(s.location)
	}
	in := t.Location()
	last := t.Year() + horizon
	// Minutes are counted on the time line rather than on the clock, so that no change of the clocks can stop the search.
	at := t.Truncate(time.Minute).Add(time.Minute)
	for at.Year() <= last {
		switch {
		case s.month>>int(at.Month())&1 == 0:
			at = later(at, time.Date(at.Year(), at.Month()+1, 1, 0, 0, 0, 0, in))
		case !s.dayMatches(at):
			at = later(at, time.Date(at.Year(), at.Month(), at.Day()+1, 0, 0, 0, 0, in))
		case s.hour>>at.Hour()&1 == 0:
			at = at.Add(time.Duration(60-at.Minute()) * time.Minute)
		case s.minute>>at.Minute()&1 == 0:
			rest := s.minute >> at.Minute()
			if rest == 0 {
				at = at.Add(time.Duration(60-at.Minute()) * time.Minute)
			} else {
				at = at.Add(time.Duration(bits.TrailingZeros64(rest)) * time.Minute)
			}
		default:
			return at.In(zone)
		}
	}
	return time.Time{}
}

// later guards against midnights that do not exist: where clocks jump at midnight, Date may go back.
func later(at, next time.Time) time.Time {
	if next.After(at) {
		return next
	}
	return at.Add(time.Hour)
}
