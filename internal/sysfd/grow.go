//go:build unix

package sysfd

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// initialTable is the descriptor table of a process on Linux before it has grown.
const initialTable = 256

// Grow makes the descriptor table large enough for n more. In a process with threads every doubling
// waits for an RCU grace period, milliseconds each; once is better than on the way. It fails, with
// EMFILE, if the limit does not allow so many numbers.
func Grow(n int) error {
	if n <= 0 {
		return nil
	}
	low, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		// No standard input to duplicate: the receive itself will tell about the limit.
		return nil
	}
	defer func() { _ = unix.Close(low) }()
	if low+n <= initialTable {
		return nil
	}
	high, err := unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, low+n)
	if err == unix.EINVAL || err == unix.EMFILE {
		return errors.WithMessagef(unix.EMFILE, "no room for %d descriptors more; %s", n, Usage())
	}
	if err == nil {
		_ = unix.Close(high)
	}
	return nil
}
