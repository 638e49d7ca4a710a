package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// TestLibraryLogs: what libraries log comes as lines of ours, an error that repeats once, and the ordinary not at all.
func TestLibraryLogs(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	for name, level := range map[string]slog.Level{"info": slog.LevelInfo, "debug": slog.LevelDebug} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			adoptLibraryLogs(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
			for range 3 {
				klog.Background().Error(errors.New("connection refused"), "Failed to watch", "type", "*v1.Pod")
			}
			klog.ErrorS(errors.New("use of closed network connection"), "Error on socket receive")
			klog.Background().Error(context.Canceled, "Something was under way")
			klog.Background().Info("Starting something")
			klog.Background().V(8).Info("Request Body", "body", "a secret")
			logrus.WithError(errors.New("broken pipe")).Error("cannot publish")
			logrus.Error("ttrpc: received message on inactive stream")
			klog.Flush()
			text := out.String()
			for _, want := range []string{
				`level=WARN msg="Failed to watch" component=client-go`, `err="connection refused"`,
				`level=WARN msg="cannot publish" component=containerd err="broken pipe"`,
			} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
			if n := strings.Count(text, "level=WARN"); n != 2 {
				t.Errorf("%d warnings, want 2:\n%s", n, text)
			}
			if strings.Contains(text, "secret") {
				t.Errorf("a body was logged:\n%s", text)
			}
			quiet := 0
			for line := range strings.Lines(text) {
				if strings.Contains(line, "level=DEBUG") {
					quiet++
				}
			}
			if level == slog.LevelInfo && quiet != 0 || level == slog.LevelDebug && quiet < 6 {
				t.Errorf("%d debug lines at %s:\n%s", quiet, level, text)
			}
		})
	}
}

// TestToldAgain: a minute later a warning is worth a line again.
func TestToldAgain(t *testing.T) {
	seen := told{last: map[string]time.Time{}}
	begin := time.Now()
	for i, tt := range []struct {
		after time.Duration
		again bool
	}{{0, false}, {time.Second, true}, {59 * time.Second, true}, {61 * time.Second, false}, {90 * time.Second, true}} {
		if got := seen.again("x", begin.Add(tt.after)); got != tt.again {
			t.Errorf("%d: after %s: %v", i, tt.after, got)
		}
	}
}
