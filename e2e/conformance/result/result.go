// Package result carries what became of each test from the suite's processes to the command that started them, as it
// happens: an interrupted run still knows what it has seen, and a process that died takes only its own test with it.
package result

import (
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Env names the environment variable with the socket's path, LogsEnv the one with the folder for logs of failed tests.
const (
	Env     = "MINI_CONFORMANCE_RESULTS"
	LogsEnv = "MINI_CONFORMANCE_LOGS"
)

// maxFailure bounds a message: a datagram has to hold it.
const maxFailure = 16 << 10

// Result is what became of one test.
type Result struct {
	Name    string        `json:"name"`
	Passed  bool          `json:"passed"`
	Skipped bool          `json:"skipped,omitempty"` // by the test itself
	Took    time.Duration `json:"took"`
	Failure string        `json:"failure,omitempty"` // why it failed or was skipped
	Log     string        `json:"log,omitempty"`     // file with all that the test wrote
}

// Send tells the listener of a socket.
func Send(socket string, r Result) error {
	if len(r.Failure) > maxFailure {
		r.Failure = r.Failure[:maxFailure]
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return fmt.Errorf("tell a result: %w", err)
	}
	defer c.Close()
	_, err = c.Write(b)
	return err
}

// Listener receives results.
type Listener struct{ conn *net.UnixConn }

// Listen makes the socket.
func Listen(socket string) (*Listener, error) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return &Listener{conn: c}, nil
}

// Close ends Receive.
func (l *Listener) Close() error { return l.conn.Close() }

// Receive calls fn with each result until Close.
func (l *Listener) Receive(fn func(Result)) {
	buf := make([]byte, 4*maxFailure)
	for {
		n, err := l.conn.Read(buf)
		if err != nil {
			return
		}
		var r Result
		if json.Unmarshal(buf[:n], &r) == nil {
			fn(r)
		}
	}
}
