package server

import (
	"net"
	"sync"
)

// merged is several listeners as one.
type merged struct {
	listeners []net.Listener
	conns     chan net.Conn
	failed    chan error
	closed    chan struct{}
	close     sync.Once
	begin     sync.Once
	accepting sync.WaitGroup
}

func merge(listeners ...net.Listener) *merged {
	return &merged{
		listeners: listeners, conns: make(chan net.Conn), failed: make(chan error, len(listeners)), closed: make(chan struct{}),
	}
}

// Accept returns the next connection of any of them, or the first error of one.
func (m *merged) Accept() (net.Conn, error) {
	m.begin.Do(func() {
		for _, l := range m.listeners {
			m.accepting.Go(func() { m.accept(l) })
		}
	})
	select {
	case c := <-m.conns:
		return c, nil
	case err := <-m.failed:
		return nil, err
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *merged) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			m.failed <- err
			return
		}
		select {
		case m.conns <- c:
		case <-m.closed:
			c.Close()
			return
		}
	}
}

// Close closes all of them.
func (m *merged) Close() error {
	var err error
	m.close.Do(func() {
		close(m.closed)
		for _, l := range m.listeners {
			if cerr := l.Close(); cerr != nil && err == nil {
				err = cerr
			}
		}
		m.accepting.Wait()
	})
	return err
}

// Addr is the first one's address.
func (m *merged) Addr() net.Addr { return m.listeners[0].Addr() }
