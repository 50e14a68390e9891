package sysfd_test

import (
	"fmt"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
)

// discards is ended by the runtime if each descriptor whose close waits occupies a thread.
var discards = testutil.NewHelper("discards", func([]string) error {
	const threads, sockets = 100, 200
	debug.SetMaxThreads(threads)
	var peers []int
	var all []<-chan struct{}
	for range sockets {
		a, peer, err := testutil.Linger()
		if err != nil {
			return err
		}
		peers = append(peers, peer)
		if done := sysfd.DiscardLater([]int{a}); done != nil {
			all = append(all, done)
		}
	}
	for i, done := range all {
		select {
		case <-done:
			return fmt.Errorf("the close of socket %d did not wait", i)
		default:
		}
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	sysfd.Discard([]int{-1, pipe[1]})
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		return fmt.Errorf("a pipe waits behind them: %d, %w", n, err)
	}
	for _, fd := range peers { // with unread data: a reset
		_ = unix.Close(fd)
	}
	for _, done := range all {
		<-done
	}
	// What was in the queue is closed too: the next one is not behind anything.
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		if done := sysfd.DiscardLater([]int{event}); done != nil {
			<-done
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the queue is not worked off")
		}
	}
})

// Descriptors whose close(2) takes as long as their sender likes do not fill this process with threads, and do not hold
// up the closing of a pipe, for which somebody may wait.
func TestDiscardThreads(t *testing.T) {
	testutil.NoLeaks(t)
	cmd := discards.Command(t)
	// A close that waits ends when its thread gets a signal, and the runtime preempts by SIGURG.
	cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1")
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}
