//go:build unix

package sysfd

import (
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// CheckListening refuses what package net wraps into something that never works: with EINVAL a listener
// as a connection, a connection as a listener, and a listener that was shut down, which is told by its
// hangup (accept(2) on it says EAGAIN for ever); with ENOTSOCK another kind of file.
func CheckListening(fd int, want bool) error {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	switch {
	case want && listening == 0:
		return errors.WithMessage(unix.EINVAL, "it does not listen")
	case !want && listening != 0:
		return errors.WithMessage(unix.EINVAL, "it listens")
	case want && HungUp(fd):
		return errors.WithMessage(unix.EINVAL, "it was shut down")
	}
	return nil
}

// CheckDatagram refuses, with EINVAL, a socket of another style.
func CheckDatagram(fd int) error {
	style, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if style != unix.SOCK_DGRAM {
		return errors.WithMessage(unix.EINVAL, "it is not a datagram socket")
	}
	return nil
}

// HungUp reports whether nothing can come in on a socket but what is queued.
func HungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: pollHangup}}
	for {
		n, err := unix.Poll(poll, 0)
		if err != unix.EINTR {
			return err == nil && n > 0 && poll[0].Revents&(pollHangup|unix.POLLHUP) != 0
		}
	}
}
