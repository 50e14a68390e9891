//go:build linux

package credentials

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getsockoptWords is getsockopt(2) of an option that is made of 32-bit words: SO_PEERCRED, for which
// x/sys allocates, and SO_PEERGROUPS, which it has not. It returns the number of words, with ERANGE
// the number that there would be. words must not be empty.
func getsockoptWords(fd, option int, words []uint32) (int, error) {
	size := uint32(4 * len(words))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(option),
		uintptr(unsafe.Pointer(&words[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return int(size / 4), errno
	}
	return int(size / 4), nil
}
