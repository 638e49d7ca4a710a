package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// adoptLibraryLogs makes what client-go and its relatives (klog) and containerd's protocols (logrus) log lines of ours. It
// is for the whole process, which is why only a command that is the process may do it.
func adoptLibraryLogs(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(newLibraryHandler(log, "client-go")))
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.WarnLevel)
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(logrusHook{newLibraryHandler(log, "containerd")})
}

// libraryHandler decides how much a line of a library is worth. Libraries try again what fails and say so each time: an error
// is a warning, once a minute, and the rest is for who asked for debug.
type libraryHandler struct {
	slog.Handler
	told *told
}

func newLibraryHandler(log *slog.Logger, component string) libraryHandler {
	return libraryHandler{log.With("component", component).Handler(), &told{last: map[string]time.Time{}}}
}

// repeatAfter is how long a warning that was told is not told again.
const repeatAfter = time.Minute

// Enabled leaves out what is below debug: client-go shows the bodies of requests there, secrets included.
func (h libraryHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelDebug && h.Handler.Enabled(ctx, libraryLevel(level))
}

func libraryLevel(level slog.Level) slog.Level {
	if level >= slog.LevelWarn {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (h libraryHandler) Handle(ctx context.Context, r slog.Record) error {
	level := libraryLevel(r.Level)
	if level == slog.LevelWarn && (harmless(r) || h.told.again(r.Message, r.Time)) {
		level = slog.LevelDebug
	}
	if !h.Handler.Enabled(ctx, level) {
		return nil
	}
	r.Level = level
	return h.Handler.Handle(ctx, r)
}

func (h libraryHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryHandler{h.Handler.WithAttrs(attrs), h.told}
}

func (h libraryHandler) WithGroup(name string) slog.Handler {
	return libraryHandler{h.Handler.WithGroup(name), h.told}
}

// harmless says whether the line is about the ordinary end of something.
func harmless(r slog.Record) (yes bool) {
	switch r.Message {
	case "Error on socket receive": // a stream whose other side is through, such as kubectl exec's
		return true
	case "ttrpc: received message on inactive stream": // an answer that nobody waits for any more
		return true
	}
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		yes = ok && strings.Contains(err.Error(), context.Canceled.Error()) // what was under way when the process ends
		return !yes
	})
	return yes
}

// told remembers when which message was let through.
type told struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (t *told) again(message string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[message]; ok && now.Sub(last) < repeatAfter {
		return true
	}
	if len(t.last) >= 256 { // messages with something changing in them
		clear(t.last)
	}
	t.last[message] = now
	return false
}

// logrusHook hands logrus's entries to a handler.
type logrusHook struct{ slog.Handler }

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelInfo
	if e.Level <= logrus.WarnLevel {
		level = slog.LevelWarn
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	for k, v := range e.Data {
		if k == logrus.ErrorKey {
			k = "err"
		}
		r.AddAttrs(slog.Any(k, v))
	}
	return h.Handle(context.Background(), r)
}
