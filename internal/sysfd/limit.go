//go:build unix

package sysfd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Limit returns the descriptor limit of this process, the soft RLIMIT_NOFILE.
func Limit() uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return uint64(r.Cur)
}

// Usage describes how this process stands to its limit, for an error message, without needing a
// descriptor for it: "RLIMIT_NOFILE is 1024 and 1024 are open".
func Usage() string {
	// st_size of the folder is the number of open descriptors since Linux 6.2; 0 before.
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/fd", &st); err != nil || st.Size == 0 {
		return fmt.Sprintf("RLIMIT_NOFILE is %d", Limit())
	}
	return fmt.Sprintf("RLIMIT_NOFILE is %d and %d are open", Limit(), st.Size)
}

// Full reports whether a duplicate of fd, an open descriptor, finds no free number.
func Full(fd int) bool {
	d, err := Dup(fd)
	if err == nil {
		_ = unix.Close(d)
	}
	return err == unix.EMFILE
}
