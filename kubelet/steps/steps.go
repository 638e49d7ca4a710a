// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// most is how many steps a Record holds; what comes after is not noted.
const most = 128

// Step is one step, in times since its Record was made.
type Step struct {
	Name  string
	Begin time.Duration
	Took  time.Duration
}

// Record is a list of steps. The methods are safe for concurrent use, and do nothing on a nil Record.
type Record struct {
	began time.Time

	mu    sync.Mutex
	steps []Step
}

// New returns an empty Record that began now.
func New() *Record { return &Record{began: time.Now()} }

// Began is when the Record was made.
func (r *Record) Began() time.Time { return r.began }

// Begin begins a step. The step is noted when the returned function is called, whether it succeeded or not.
func (r *Record) Begin(name string) (end func()) {
	if r == nil {
		return func() {}
	}
	begin := time.Since(r.began)
	return func() {
		took := time.Since(r.began) - begin
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.steps) < most {
			r.steps = append(r.steps, Step{name, begin, took})
		}
	}
}

// Steps returns what was noted, in the order of the beginnings.
func (r *Record) Steps() []Step {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(r.steps), func(a, b Step) int { return int(a.Begin - b.Begin) })
}

// String lists the steps as Parse reads them: "cgroup 0.312+1.204; network 2.100+14.003", in milliseconds from the beginning of
// the Record, and what each took.
func (r *Record) String() string {
	var b strings.Builder
	for i, s := range r.Steps() {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s %.3f+%.3f", s.Name, milliseconds(s.Begin), milliseconds(s.Took))
	}
	return b.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Parse reads what String wrote.
func Parse(s string) ([]Step, error) {
	var all []Step
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, "; ") {
		i := strings.LastIndexByte(part, ' ')
		begin, took, ok := strings.Cut(part[i+1:], "+")
		b, err := strconv.ParseFloat(begin, 64)
		t, err2 := strconv.ParseFloat(took, 64)
		if i < 0 || !ok || err != nil || err2 != nil {
			return nil, fmt.Errorf("%q is no step", part)
		}
		all = append(all, Step{part[:i], time.Duration(b * float64(time.Millisecond)), time.Duration(t * float64(time.Millisecond))})
	}
	return all, nil
}

type key struct{}

// With returns a context in which Begin notes steps in r; a nil r leaves ctx as it is.
func With(ctx context.Context, r *Record) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, r)
}

// Begin begins a step of the context's Record, if it has one.
func Begin(ctx context.Context, name string) (end func()) {
	r, _ := ctx.Value(key{}).(*Record)
	return r.Begin(name)
}
