//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var stopSignals = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP}

// takeStopSignals returns where they arrive from now on, but for those that are ignored: nohup(1) does that.
func takeStopSignals() chan os.Signal {
	signals := make(chan os.Signal, 4)
	for _, sig := range stopSignals {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	return signals
}

// untilDone returns a context that ends after timeout, 0 for never, or at SIGINT, SIGTERM and SIGHUP. Its
// cause says which, with the exit code. stop must be called, and soon after that: a second later the program ends,
// since a file that somebody sent may be of a file system that never answers fstat(2) or close(2).
func untilDone(ctx context.Context, what string, timeout time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := takeStopSignals()
	var over <-chan time.Time
	if timeout > 0 {
		over = time.After(timeout)
	}
	stopped := make(chan struct{})
	go func() {
		var err error
		select {
		case sig := <-signals:
			number, _ := sig.(syscall.Signal)
			err = &exitError{code: 128 + int(number)}
		case <-over:
			err = &exitError{exitTimeout, fmt.Errorf("%s: not done after %v (--timeout)", what, timeout)}
		case <-stopped:
			return
		}
		cancel(err)
		select {
		case <-stopped:
		case <-time.After(time.Second):
			os.Exit(exitCode(os.Stderr, err))
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		cancel(nil)
	}
}

// because returns why ctx ended, if it has, and else err: what a Close in the middle made of a call says less.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
