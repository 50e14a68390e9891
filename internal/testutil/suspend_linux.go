package testutil

import (
	"bytes"
	"fmt"
	"os"
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

// AwaitStopped returns when a process that is about to stop itself by SIGSTOP has stopped, or has ended: a SIGCONT that
// comes before would be lost. It need not be a child.
func AwaitStopped(t testing.TB, pid int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("process %d stops", pid), func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // behind the name
		return len(f) > 0 && (f[0][0] == 'T' || f[0][0] == 'Z' || f[0][0] == 'X')
	})
}
