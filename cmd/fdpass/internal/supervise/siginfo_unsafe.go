//go:build linux

package supervise

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// childPID returns si_pid, which x/sys hides in the padding: the first field of the union behind si_signo,
// si_errno and si_code, which is aligned as a pointer is. It is 0 if waitid(2) found nobody.
func childPID(info *unix.Siginfo) int {
	offset := (3*unsafe.Sizeof(int32(0)) + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}
