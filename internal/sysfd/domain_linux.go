package sysfd

import (
	"os"

	"golang.org/x/sys/unix"
)

func domain(fd int) (int, error) {
	d, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return d, os.NewSyscallError("getsockopt", err)
}
