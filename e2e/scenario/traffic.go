package scenario

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// HTTP is a client whose connections come from inside a node's network, each call on one of its own.
func (s *Cluster) HTTP(node string) *http.Client {
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		derr := s.Do(node, func() error {
			conn, err = (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, network, address)
			return nil
		})
		if derr != nil {
			return nil, derr
		}
		return conn, err
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// Get calls a URL from inside a node and returns the body of a 200.
func (s *Cluster) Get(node, url string) (string, error) {
	return get(s.HTTP(node), url)
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s: %s", url, resp.Status, strings.TrimSpace(string(b)))
	}
	return strings.TrimSpace(string(b)), nil
}

// Traffic calls a URL from inside a node without pause until it is stopped.
type Traffic struct {
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	calls   int
	failed  []string
	answers map[string]int
}

// StartTraffic starts n callers.
func (s *Cluster) StartTraffic(node, url string, n int) *Traffic {
	tr := &Traffic{stop: make(chan struct{}), answers: map[string]int{}}
	client := s.HTTP(node)
	for range n {
		tr.done.Go(func() {
			for {
				select {
				case <-tr.stop:
					return
				default:
				}
				begin := time.Now()
				body, err := get(client, url)
				tr.mu.Lock()
				tr.calls++
				if err != nil {
					tr.failed = append(tr.failed, fmt.Sprintf("%s after %s: %v", begin.Format("15:04:05.000"), time.Since(begin).Round(time.Millisecond), err))
				} else {
					tr.answers[body]++
				}
				tr.mu.Unlock()
				// A call every few milliseconds is without pause for what is tested, and leaves the two cores to the nodes.
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return tr
}

// Answered returns how many calls were answered so far, by answer.
func (tr *Traffic) Answered() map[string]int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	out := map[string]int{}
	for k, v := range tr.answers {
		out[k] = v
	}
	return out
}

// End stops the callers; a failed call fails the test.
func (tr *Traffic) End(t testing.TB) {
	t.Helper()
	close(tr.stop)
	tr.done.Wait()
	if len(tr.failed) > 0 {
		t.Errorf("%d of %d calls failed:\n%s", len(tr.failed), tr.calls, strings.Join(tr.failed[:min(10, len(tr.failed))], "\n"))
	}
	if tr.calls == 0 {
		t.Error("no call was made")
	}
	t.Logf("%d calls, answers: %v", tr.calls, tr.answers)
}
