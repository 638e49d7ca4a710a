package iptables

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// nftablesGroup is NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h: one notification for every transaction.
	nftablesGroup = 7
	// settle is how long to wait after a notification: whoever edits rules seldom makes only one change, and our own
	// changes announce themselves too.
	settle = time.Second
	// compareEvery bounds how often a busy rule set is compared; with settle it keeps repairs well below 30 s.
	compareEvery = 10 * time.Second
	// legacyEvery is how often the legacy tables, which announce nothing, are compared.
	legacyEvery = 20 * time.Second
)

// Run repairs the chains after others have touched them, until ctx ends. It returns nil then, and an error only if the
// notifications cannot be had.
func (t *Table) Run(ctx context.Context) error {
	if !t.cfg.Command.NFT() {
		return t.runTicker(ctx)
	}
	sock, err := nl.Subscribe(unix.NETLINK_NETFILTER, nftablesGroup)
	if err != nil {
		return fmt.Errorf("listen to nf_tables: %w", err)
	}
	stop := context.AfterFunc(ctx, sock.Close)
	defer func() {
		if stop() {
			sock.Close()
		}
	}()
	events := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- drain(sock, events) }()

	for {
		select {
		case <-ctx.Done():
			<-done
			return nil
		case err := <-done:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("listen to nf_tables: %w", err)
		case <-events:
		}
		if !pause(ctx, settle) {
			continue
		}
		select {
		case <-events:
		default:
		}
		t.verify(ctx)
		pause(ctx, compareEvery-settle)
	}
}

func (t *Table) runTicker(ctx context.Context) error {
	tick := time.NewTicker(legacyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.verify(ctx)
		}
	}
}

func (t *Table) verify(ctx context.Context) {
	if _, err := t.Verify(ctx); err != nil && ctx.Err() == nil {
		t.cfg.Logger.Error("cannot check the iptables rules", "err", err)
	}
}

// drain turns notifications into a signal. That the kernel dropped some is a notification as well.
func drain(sock *nl.NetlinkSocket, events chan<- struct{}) error {
	for {
		_, _, err := sock.Receive()
		if err != nil && !errors.Is(err, syscall.ENOBUFS) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
