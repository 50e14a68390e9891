package sysfd

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// noCloseRange remembers that close_range(2) is missing (before Linux 5.9) or forbidden.
var noCloseRange atomic.Bool

// closeRun closes the n numbers from first on, all of them ours. One close_range(2) costs a third
// of as many close(2), but more than a single one.
func closeRun(first, n int) {
	if n > 1 && !noCloseRange.Load() {
		err := unix.CloseRange(uint(first), uint(first+n-1), 0)
		if err == nil {
			return
		}
		noCloseRange.Store(true)
	}
	closeEach(first, n)
}

// closesAtOnce reports whether close(2) of a descriptor cannot wait, whoever made it. It is true of a pipe only,
// which is what asks for an answer by being closed. It asks no file system: one of the peer's may not answer.
func closesAtOnce(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	return err == nil
}
