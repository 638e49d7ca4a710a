package footprint

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const example = `00400000-04a1c000 r-xp 00000000 fe:00 1310821                            /opt/bin/mini
Size:              71792 kB
Rss:               40960 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
04a1c000-07000000 r--p 0461c000 fe:00 1310821                            /opt/bin/mini
Rss:               20480 kB
Anonymous:             0 kB
07000000-07001000 r--p 06c00000 fe:00 1310821                            /opt/bin/mini
Rss:                   4 kB
Anonymous:             4 kB
07001000-07100000 rw-p 06c01000 fe:00 1310821                            /opt/bin/mini
Rss:                 100 kB
Anonymous:             0 kB
7ffd1000-7ffd3000 r-xp 00000000 00:00 0                                  [vdso]
Rss:                   8 kB
Anonymous:             0 kB
7ffe0000-7ffe1000 r--p 00000000 fe:00 12                                 /opt/bin/mini (deleted)
Rss:                   8 kB
Anonymous:             0 kB
8ffe0000-8ffe1000 r--p 00000000 fe:00 1310821                            /opt/bin/mini
Rss:                   0 kB
Anonymous:             0 kB
`

func TestParse(t *testing.T) {
	got, err := parse(strings.NewReader(example), "/opt/bin/mini")
	if err != nil {
		t.Fatal(err)
	}
	want := []segment{{0x400000, 0x4a1c000, 40 << 20}, {0x4a1c000, 0x7000000, 20 << 20}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(segment{})); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Fuzz(func(t *testing.T, s string) {
		segments, _ := parse(strings.NewReader(s), "/opt/bin/mini")
		for _, s := range segments {
			if s.end <= s.start || s.resident <= 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// TestTrim trims the test itself, which must go on as if nothing had happened.
func TestTrim(t *testing.T) {
	n, err := Trim()
	if err != nil || n <= 0 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if again, err := Trim(); err != nil || again >= n {
		t.Errorf("%d bytes at first, %d again, %v", n, again, err)
	}
}
