package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mini-k8s/mini/apiserver/request"
)

// Check is one line of the health pages.
type Check struct {
	Name  string
	Live  bool // a failure means that a restart may help, so /livez shows it too
	Check func(context.Context) error
}

// checkTimeout bounds each check: a probe must get its answer.
const checkTimeout = 2 * time.Second

// health serves /healthz, /livez and /readyz, and each check below them by name.
type health struct{ checks []Check }

func (s *Server) newHealth() *health {
	closed := func(what <-chan struct{}, missing string) func(context.Context) error {
		return func(context.Context) error {
			select {
			case <-what:
				return nil
			default:
				return fmt.Errorf("%s", missing)
			}
		}
	}
	synced := s.plugins.Synced
	if synced == nil {
		c := make(chan struct{})
		close(c)
		synced = c
	}
	checks := []Check{
		{Name: "ping", Live: true, Check: func(context.Context) error { return nil }},
		{Name: "etcd", Live: true, Check: s.config.Store.Healthy},
		{Name: "poststarthook/bootstrap-system-objects", Check: closed(s.bootstrapped, "the first objects are not made yet")},
		{Name: "poststarthook/plugins-synced", Check: closed(synced, "the plugins' caches are not filled yet")},
		{Name: "shutdown", Check: func(context.Context) error {
			if s.ending.Err() != nil {
				return fmt.Errorf("process is shutting down")
			}
			return nil
		}},
	}
	return &health{checks: append(checks, s.config.Checks...)}
}

// ServeHTTP answers "ok", or every line where ?verbose is given or a check fails.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, name, single := strings.Cut(strings.TrimPrefix(request.InfoFrom(r.Context()).Path, "/"), "/")
	query := r.URL.Query()
	var lines strings.Builder
	failed := []string{}
	found := false
	for _, c := range h.checks {
		if page == "livez" && !c.Live || single && c.Name != name {
			continue
		}
		found = true
		if !single && slices.Contains(query["exclude"], c.Name) {
			fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		err := c.Check(ctx)
		cancel()
		if err != nil {
			failed = append(failed, c.Name)
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.Name, err)
			continue
		}
		fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case !found:
		http.NotFound(w, r)
	case len(failed) > 0:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", lines.String(), page)
	case query.Has("verbose") && !single:
		fmt.Fprintf(w, "%s%s check passed\n", lines.String(), page)
	default:
		fmt.Fprint(w, "ok")
	}
}
