//go:build unix

package sysfd

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// discarding is what closes descriptors that came from somebody else and are refused.
//
// The peer decides how long close(2) of one takes, with SO_LINGER on a socket or a file of its own file system, and
// each that waits occupies a thread. The runtime ends a program that has 10 000 of them, so they are few, and what they
// cannot take up waits in a queue. Whoever fills it holds up what else is discarded, in descriptors of
// this process, and nothing else.
var discarding struct {
	mu      sync.Mutex
	running int
	waiting []discarded
}

// maxDiscarding is how many goroutines, and so threads, close at a time.
const maxDiscarding = 32

// A discarded is what one Discard has taken over.
type discarded struct {
	fds  []int
	done chan<- struct{} // closed when they are
}

// Discard closes descriptors that came from somebody else and are refused, those of fds that are not
// negative. It waits a moment for that; what takes longer goes on in the background.
func Discard(fds []int) {
	closed := DiscardLater(fds)
	if closed == nil {
		return
	}
	moment := time.NewTimer(50 * time.Millisecond)
	defer moment.Stop()
	select {
	case <-closed:
	case <-moment.C:
	}
}

// DiscardLater is Discard for a caller who cannot wait. It returns a channel that is closed when all of fds are,
// or nil if there is nothing to wait for: they are closed, or they are in a queue behind others that take long.
// Descriptors whose close(2) cannot wait, such as the pipe of a barrier, are closed at once in any case.
func DiscardLater(fds []int) <-chan struct{} {
	var own []int
	for _, fd := range fds {
		switch {
		case fd < 0:
		case closesAtOnce(fd):
			_ = unix.Close(fd)
		default:
			own = append(own, fd)
		}
	}
	if len(own) == 0 {
		return nil
	}
	done := make(chan struct{})
	d := &discarding
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = append(d.waiting, discarded{own, done})
	if d.running == maxDiscarding {
		return nil
	}
	d.running++
	go discard()
	return done
}

// discard closes what waits, until there is nothing more.
func discard() {
	d := &discarding
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.waiting) > 0 {
		next := d.waiting[0]
		d.waiting[0] = discarded{}
		d.waiting = d.waiting[1:]
		d.mu.Unlock()
		CloseAll(next.fds)
		close(next.done)
		d.mu.Lock()
	}
	d.waiting = nil
	d.running--
}
