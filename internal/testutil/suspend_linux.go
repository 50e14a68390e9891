package testutil

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Suspend stops a child of this process by SIGSTOP, and returns when it does nothing any more: kill(2) returns
// earlier. It goes on when the test ends, or with SIGCONT.
func Suspend(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatalf("wait until %d is stopped: %v", pid, err)
		}
	}
}
