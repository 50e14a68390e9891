//go:build unix

package sysfd

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// CloseAll closes every number of fds that is not negative and sets it to -1. Errors of close(2)
// are not reported: the number is free after any of them.
func CloseAll(fds []int) {
	for i := 0; i < len(fds); {
		// Descriptors that arrive together usually have consecutive numbers.
		run := 1
		for i+run < len(fds) && fds[i] >= 0 && fds[i+run] == fds[i]+run {
			run++
		}
		if fds[i] >= 0 {
			closeRun(fds[i], run)
		}
		for j := range run {
			fds[i+j] = -1
		}
		i += run
	}
}

// Discard closes descriptors that came from somebody else and are refused, those of fds that are not
// negative. The peer decides how long close(2) takes, with SO_LINGER on a socket or a file of its own
// file system: after a moment it goes on in the background.
func Discard(fds []int) {
	if !slices.ContainsFunc(fds, func(fd int) bool { return fd >= 0 }) {
		return
	}
	own := slices.Clone(fds)
	closed := make(chan struct{})
	go func() {
		CloseAll(own)
		close(closed)
	}()
	moment := time.NewTimer(50 * time.Millisecond)
	defer moment.Stop()
	select {
	case <-closed:
	case <-moment.C:
	}
}

func closeEach(first, n int) {
	for i := range n {
		_ = unix.Close(first + i)
	}
}
