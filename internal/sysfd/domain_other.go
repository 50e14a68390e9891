//go:build unix && !linux

package sysfd

import (
	"os"

	"golang.org/x/sys/unix"
)

// domain asks for the address, because SO_DOMAIN is not everywhere.
func domain(fd int) (int, error) {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	if _, ok := addr.(*unix.SockaddrUnix); ok {
		return unix.AF_UNIX, nil
	}
	return unix.AF_UNSPEC, nil
}
