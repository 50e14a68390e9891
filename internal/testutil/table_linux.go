package testutil

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FillTable fills the descriptor table of this process but for free places, until the test ends or
// the returned function is called.
func FillTable(t testing.TB, free int) (empty func()) {
	t.Helper()
	startPoller(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	highest := 0
	for fd := range Open(t) {
		highest = max(highest, fd)
	}
	limit := old
	limit.Cur = uint64(highest) + 16 + uint64(free)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var fill []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			t.Fatalf("fill the table: %v", err)
		}
		fill = append(fill, fd)
	}
	for range free {
		_ = unix.Close(fill[len(fill)-1])
		fill = fill[:len(fill)-1]
	}
	done := false
	empty = func() {
		if done {
			return
		}
		done = true
		for _, fd := range fill {
			_ = unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Errorf("restore the limit: %v", err)
		}
	}
	t.Cleanup(empty)
	return empty
}

// NeedFiles raises RLIMIT_NOFILE to n, also for the processes that this one starts, until the test ends. It skips
// the test of a user who may not.
func NeedFiles(t testing.TB, n uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if old.Cur >= n {
		return
	}
	switch err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: max(n, old.Max)}); err {
	case nil:
	case unix.EPERM:
		t.Skipf("RLIMIT_NOFILE is at most %d, this needs %d", old.Max, n)
	default:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Errorf("restore the limit: %v", err)
		}
	})
}
