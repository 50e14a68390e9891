//go:build unix

package sysfd

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Readable reports whether something waits to be read from c: data, or the end. If it cannot be found
// out, it does.
func Readable(c syscall.Conn) bool {
	ready := true
	_ = Control(c, func(fd int) error {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, 0)
			if err != unix.EINTR {
				ready = err != nil || n > 0
				return nil
			}
		}
	})
	return ready
}
