package store

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// etcdLogger makes etcd's log that of the store: information nobody asked for becomes debug, and of a warning that
// repeats, as they do by the hundred on a slow disk, one a minute is let through. What etcd would end the process for
// goes to fatal and ends the goroutine that said it.
func etcdLogger(log *slog.Logger, fatal chan<- error) *zap.Logger {
	hook := lost{fatal}
	core := &slogCore{handler: log.With("component", "etcd").Handler(), said: &said{last: map[string]time.Time{}}}
	return zap.New(core, zap.WithFatalHook(hook), zap.WithPanicHook(hook))
}

// said remembers which warnings were let through when. (zap's own sampler takes half a megabyte for this.)
type said struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// again says whether the message came less than a minute ago.
func (s *said) again(e zapcore.Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Time.Sub(s.last[e.Message]) < time.Minute {
		return true
	}
	if len(s.last) >= 256 {
		clear(s.last)
	}
	s.last[e.Message] = e.Time
	return false
}

// lost takes the place of os.Exit and panic.
type lost struct{ fatal chan<- error }

func (l lost) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := fmt.Errorf("%s", e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	select {
	case l.fatal <- err:
	default: // somebody was faster; one reason is enough
	}
	runtime.Goexit()
}

// slogCore is a zap core on a slog handler.
type slogCore struct {
	handler slog.Handler
	said    *said
}

func (c *slogCore) level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (c *slogCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), c.level(l))
}

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{c.handler.WithAttrs(attrs(fields)), c.said}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || e.Level == zapcore.WarnLevel && c.said.again(e) {
		return ce
	}
	return ce.AddCore(e, c)
}

func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := c.level(e.Level)
	if expected(e, fields) {
		level = slog.LevelDebug
		if !c.handler.Enabled(context.Background(), level) {
			return nil
		}
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

// expected says whether etcd complains of what is as it should be. A member decides the version of its storage when it knows
// the cluster's, which in a member that leads at once is before its database was first committed; it tries again 5 s later,
// and nothing depends on it meanwhile. And etcd's own users, whose tokens it finds too simple, do not exist here.
func expected(e zapcore.Entry, fields []zapcore.Field) bool {
	switch e.Message {
	case "simple token is not cryptographically signed":
		return true
	case "Failed to detect schema version", "failed to update storage version":
		return slices.ContainsFunc(fields, func(f zapcore.Field) bool {
			err, ok := f.Interface.(error)
			return ok && strings.Contains(err.Error(), "missing term information")
		})
	}
	return false
}

func (c *slogCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	out := make([]slog.Attr, 0, len(m.Fields))
	for _, f := range fields {
		if v, ok := m.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
