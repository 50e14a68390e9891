//go:build linux

package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// behind makes program, with its arguments, the parent of cmd's program, or what executes it.
func behind(t *testing.T, cmd *exec.Cmd, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd.Args = append(append([]string{program}, args...), append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = testutil.NeedProgram(t, program)
	return cmd
}

// given lets a shell set the variables of n descriptors for its own pid and execute cmd's program.
func given(t *testing.T, cmd *exec.Cmd, n int, more string) *exec.Cmd {
	t.Helper()
	return behind(t, cmd, "sh", "-c", "export LISTEN_PID=$$ LISTEN_FDS="+strconv.Itoa(n)+" "+more+`; exec "$0" "$@"`)
}

// output runs cmd and returns what it printed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	return out.String()
}

func closeOnExec(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC != 0
}

func is(b bool, what string) string {
	if b {
		return what
	}
	return fmt.Sprintf("NOT %s", what)
}

// commandWithin returns a command that ends within two minutes. Its standard error is the test's.
func commandWithin(t *testing.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	return cmd
}
