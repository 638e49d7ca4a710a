package cluster

import (
	"errors"
	"net"
	"testing"
	"time"
)

// echo sends a datagram from the server's namespace to agent-1's and waits for its return, trying again and again for d, since a
// bridge port takes a moment to forward.
func echo(t *testing.T, c *Cluster, d time.Duration) error {
	t.Helper()
	var there, here net.PacketConn
	listen := func(node, address string, conn *net.PacketConn) {
		t.Helper()
		if err := c.Do(node, func() (err error) { *conn, err = net.ListenPacket("udp4", address); return err }); err != nil {
			t.Fatal(err)
		}
	}
	listen("agent-1", c.Nodes[1].IP.String()+":0", &there)
	defer there.Close()
	listen("server", c.Nodes[0].IP.String()+":0", &here)
	defer here.Close()
	go func() {
		buf := make([]byte, 16)
		for {
			n, from, err := there.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = there.WriteTo(buf[:n], from)
		}
	}()
	buf := make([]byte, 16)
	for end := time.Now().Add(d); time.Now().Before(end); {
		_, _ = here.WriteTo([]byte("hello"), there.LocalAddr())
		if err := here.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		if _, _, err := here.ReadFrom(buf); err == nil {
			return nil
		}
	}
	return errors.New("no answer")
}
