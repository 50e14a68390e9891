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

// untilDone returns a context that ends after timeout, 0 for never, or at SIGINT, SIGTERM and SIGHUP. Its
// cause says which, with the exit code. stop must be called, and soon after that: a second later the program ends,
// since a file that somebody sent may be of a file system that never answers fstat(2) or close(2).
func untilDone(ctx context.Context, what string, timeout time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(sig) { // as nohup(1) has it
			signal.Notify(signals, sig)
		}
	}
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
