//go:build linux

package testutil

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// IOURingSetup returns the descriptor of a new io_uring, io_uring_setup(2).
func IOURingSetup() (int, error) {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return -1, errno
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}
