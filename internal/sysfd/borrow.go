//go:build unix

package sysfd

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Control lends the descriptor of c to f. The number is valid inside f only, and f must not wait:
// the owner's Close waits for it.
func Control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// Dup returns another number for the open file of fd, close-on-exec and never 0, 1 or 2: a child
// or a library that prints would otherwise write into it.
func Dup(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
}
