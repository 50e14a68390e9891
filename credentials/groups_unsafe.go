//go:build linux

package credentials

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// getsockoptGroups is getsockopt(SO_PEERGROUPS), which x/sys has not. It returns the number of
// groups, with ERANGE the number that there would be. groups must not be empty.
func getsockoptGroups(fd int, groups []uint32) (int, error) {
	size := uint32(4 * len(groups))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return int(size / 4), errno
	}
	return int(size / 4), nil
}
