package handoff

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// readable reports whether something waits to be read: data, or the end.
func readable(c syscall.Conn) bool {
	ready := true
	_ = sysfd.Control(c, func(fd int) error {
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
