package cron

import (
	"strings"
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	for _, c := range []struct{ spec, from, want string }{
		{"* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"},
		{"* * * * *", "2026-01-01T00:00:59Z", "2026-01-01T00:01:00Z"},
		{"*/15 * * * *", "2026-01-01T00:14:00Z", "2026-01-01T00:15:00Z"},
		{"5/20 * * * *", "2026-01-01T00:30:00Z", "2026-01-01T00:45:00Z"},
		{"0 0 1 1 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"@yearly", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"@hourly", "2026-06-01T00:10:00Z", "2026-06-01T01:00:00Z"},
		{"@every 1h30m", "2026-06-01T00:10:05Z", "2026-06-01T01:40:05Z"},
		{"30 4 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T04:30:00Z"},
		{"0 0 * * mon", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"},
		{"0 0 13 * FRI", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"}, // either
		{"0 12 * jan,Mar 1-5", "2026-01-31T00:00:00Z", "2026-03-02T12:00:00Z"},
		{"0 0 ? * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
		{"TZ=America/New_York 0 9 * * *", "2026-01-01T00:00:00Z", "2026-01-01T14:00:00Z"},
		{"CRON_TZ=Europe/Berlin 30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"}, // 02:30 does not exist on the 29th
		{"CRON_TZ=America/Sao_Paulo 0 0 * * *", "2018-11-03T04:00:00Z", "2018-11-05T02:00:00Z"},
		{"0 0 30 2 *", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
	} {
		s, err := Parse(c.spec)
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		from, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Next(from).UTC().Format(time.RFC3339); got != c.want {
			t.Errorf("%s after %s: %s, want %s", c.spec, c.from, got, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"":                "empty spec string",
		"* * * *":         "expected exactly 5 fields, found 4: [* * * *]",
		"60 * * * *":      "end of range (60) above maximum (59): 60",
		"* * 0 * *":       "beginning of range (0) below minimum (1): 0",
		"5-1 * * * *":     "beginning of range (5) beyond end of range (1): 5-1",
		"*/0 * * * *":     "step of range should be a positive number: */0",
		"a * * * *":       "failed to parse int from a",
		"@never":          "unrecognized descriptor: @never",
		"@every x":        "failed to parse duration @every x",
		"TZ=Mars * * * *": "provided bad location Mars",
		"* * * * 7":       "end of range (7) above maximum (6): 7",
	} {
		if _, err := Parse(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", spec, err, want)
		}
	}
}

// FuzzNext: whatever parses has a next time that is later and, on a clock, matches.
func FuzzNext(f *testing.F) {
	for _, spec := range []string{"* * * * *", "*/7 3-9/2 29 feb *", "@every 1m", "TZ=Asia/Tokyo 0 0 1,15 * mon-fri"} {
		f.Add(spec, int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, spec string, unix int64) {
		s, err := Parse(spec)
		if err != nil {
			return
		}
		from := time.Unix(unix%(1<<33), 0).UTC()
		next := s.Next(from)
		if next.IsZero() {
			return
		}
		if !next.After(from) {
			t.Fatalf("%q after %s: %s", spec, from, next)
		}
		if s.every == 0 {
			local := next
			if s.location != nil {
				local = next.In(s.location)
			}
			if s.minute>>local.Minute()&1 == 0 || s.hour>>local.Hour()&1 == 0 || s.month>>int(local.Month())&1 == 0 || !s.dayMatches(local) {
				t.Fatalf("%q: %s does not match", spec, local)
			}
		}
	})
}
