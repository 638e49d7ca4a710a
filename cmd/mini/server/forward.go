package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// forward hands every connection of l on to address, until ctx ends. What it dials is in the process's own network, whatever
// network l belongs to.
func forward(ctx context.Context, l net.Listener, address string, logger *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		in, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		open.Go(func() {
			if err := join(ctx, in, address); err != nil && ctx.Err() == nil {
				logger.Info("a published port's connection could not be handed on", "to", address, "err", err)
			}
		})
	}
}

// join copies between in and a new connection until both directions have ended. Each direction's end is passed on by itself,
// for protocols that close one way and go on answering the other.
func join(ctx context.Context, in net.Conn, address string) error {
	defer in.Close()
	out, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(pair[1], pair[0]) // a broken connection is its ends' business
			if c, ok := pair[1].(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
		})
	}
	both.Wait()
	return nil
}
