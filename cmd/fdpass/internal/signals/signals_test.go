//go:build unix

package signals

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// A program that writes a lot to a standard error that nobody has costs no other signal its place.
func TestPipe(t *testing.T) {
	Take()
	t.Cleanup(func() { signal.Reset() })
	seen := make(chan os.Signal, 1)
	signal.Notify(seen, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	send := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != sig {
			t.Fatal(got)
		}
	}
	for range cap(Inbox) + 1 {
		send(syscall.SIGPIPE)
	}
	send(syscall.SIGUSR1)
	send(syscall.SIGUSR2) // each channel has had its SIGUSR1 then
	for {
		select {
		case sig := <-Inbox:
			if sig == syscall.SIGUSR1 {
				return
			}
		default:
			t.Fatal("SIGUSR1 was dropped")
		}
	}
}
