//go:build linux

package execstub

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

// stub executes program, a copy of this test, as the stub.
func stub(t *testing.T, program string, user uint32, path string, args ...string) (out, report string, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(program)
	cmd.Args = Args(3, path, args)
	cmd.ExtraFiles = []*os.File{w}
	if user != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		cmd.Dir = "/"
	}
	var b strings.Builder
	cmd.Stdout = &b
	err = cmd.Run()
	w.Close()
	told, rerr := io.ReadAll(r)
	if rerr != nil {
		t.Fatal(rerr)
	}
	return b.String(), string(told), err
}

func TestStub(t *testing.T) {
	testutil.NoLeaks(t)
	out, report, err := stub(t, Path, 0, "/bin/sh", "sh", "-c", `[ "$LISTEN_PID" = $$ ] && echo "$1"; [ -e /proc/$$/fd/3 ] && echo leaked`, "sh", "it runs")
	if out != "it runs\n" || report != "" {
		t.Errorf("%q, %q, %v", out, report, err)
	}
	var exit *exec.ExitError
	if out, report, err = stub(t, Path, 0, "/nowhere", "nowhere"); out != "" || report != "2" || !errors.As(err, &exit) || exit.ExitCode() != exitCannotRun {
		t.Errorf("%q, %q, %v", out, report, err)
	}
}

// A program that has privileges by its file does not execute for anybody what he likes.
func TestStubRefusesSetUser(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	dir, err := os.MkdirTemp("", "execstub-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		t.Skip("set-user-ID has no effect in ", dir)
	}
	self, err := os.ReadFile(Path)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	if out, report, err := stub(t, program, 4242, "/bin/echo", "echo", "harmless"); out != "harmless\n" || err != nil {
		t.Fatalf("without the bit: %q, %q, %v", out, report, err)
	}
	if err := os.Chmod(program, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	out, report, err := stub(t, program, 4242, "/bin/echo", "echo", "root's")
	if out != "" || report != "" || !errors.As(err, &exit) || exit.ExitCode() != exitRefused {
		t.Errorf("with it: %q, %q, %v", out, report, err)
	}
}

func TestArgs(t *testing.T) {
	args := []string{"name", "a"}
	if got := Args(7, "/p", args); !slices.Equal(got, []string{arg0, "7", "/p", "name", "a"}) {
		t.Errorf("%q", got)
	}
}
