package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// firstFD is where passed sockets begin (sd_listen_fds(3)).
const firstFD = 3

// Sockets are listeners that the starter of the process opened and passed on, as systemd's socket activation does. A listener
// belongs to the network namespace it was opened in, whatever the process's own is.
type Sockets struct {
	API     []net.Listener         // named "api": more places where the API answers
	Publish map[int][]net.Listener // named "publish-PORT": TCP connections go on to this node's port PORT
}

// InheritSockets takes over what LISTEN_FDS and LISTEN_FDNAMES announce, and clears them, so that no child does it again.
func InheritSockets() (s Sockets, err error) {
	count := os.Getenv("LISTEN_FDS")
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s, nil // meant for somebody else
	}
	for _, v := range []string{"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"} {
		if err := os.Unsetenv(v); err != nil {
			return s, err
		}
	}
	if count == "" {
		return s, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n != len(names) {
		return s, fmt.Errorf("LISTEN_FDS=%q with %d names in LISTEN_FDNAMES: want one name for each passed socket", count, len(names))
	}
	s.Publish = map[int][]net.Listener{}
	for i, name := range names {
		syscall.CloseOnExec(firstFD + i)
		l, err := listenerOf(firstFD+i, name)
		if err != nil {
			return s, errors.Join(err, s.Close())
		}
		port, published := strings.CutPrefix(name, "publish-")
		switch p, perr := strconv.ParseUint(port, 10, 16); {
		case published && perr == nil && p > 0:
			s.Publish[int(p)] = append(s.Publish[int(p)], l)
		case name == "api":
			s.API = append(s.API, l)
		default:
			return s, errors.Join(fmt.Errorf("passed socket %q: want api or publish-PORT", name), l.Close(), s.Close())
		}
	}
	return s, nil
}

func listenerOf(fd int, name string) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // FileListener has a descriptor of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("passed socket %q: %w", name, err)
	}
	return l, nil
}

// Close closes all of them.
func (s Sockets) Close() error {
	var errs []error
	for _, l := range s.API {
		errs = append(errs, l.Close())
	}
	for _, ls := range s.Publish {
		for _, l := range ls {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}
