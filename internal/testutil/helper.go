//go:build unix

package testutil

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// helperVariable names, in the environment, the helper that a copy of the test binary is to be.
const helperVariable = "FDKIT_TEST_HELPER"

var helpers = struct {
	sync.Mutex
	mains  map[string]func(args []string) error
	unused map[string]bool
}{mains: map[string]func([]string) error{}, unused: map[string]bool{}}

// A Helper is a program that is part of the test binary.
type Helper string

// NewHelper registers a helper process; assign it to a package variable. main gets the arguments
// of Command; its error goes to standard error, with exit status 1.
func NewHelper(name string, main func(args []string) error) Helper {
	helpers.Lock()
	defer helpers.Unlock()
	if helpers.mains[name] != nil {
		panic("testutil: two helpers are called " + name)
	}
	helpers.mains[name] = main
	helpers.unused[name] = true
	return Helper(name)
}

// Command returns the command that runs the helper. Its standard error is the test's. It is killed
// after five minutes, and when the cleanups that the test registers from now on are through.
func (h Helper) Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return h.command(t, executable(t), args)
}

// CommandAs is Command as another user, without supplementary groups but those given. The test must
// run as root.
func (h Helper) CommandAs(t testing.TB, uid, gid uint32, groups []uint32, args ...string) *exec.Cmd {
	t.Helper()
	cmd := h.command(t, readableExecutable(t), args)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	cmd.Dir = "/"
	return cmd
}

func (h Helper) command(t testing.TB, path string, args []string) *exec.Cmd {
	t.Helper()
	helpers.Lock()
	delete(helpers.unused, string(h))
	helpers.Unlock()
	// Not t.Context: that ends before the cleanups, which may wait for the process.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), helperVariable+"="+string(h), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// Inherit makes the programs that this process starts the helper too, if they are this binary.
func (h Helper) Inherit() { _ = os.Setenv(helperVariable, string(h)) }

func executable(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var readable struct {
	sync.Once
	dir string
	err error
}

// readableExecutable returns a copy of the test binary that every user can execute: go test keeps
// it in a folder of its own user's.
func readableExecutable(t testing.TB) string {
	t.Helper()
	path := executable(t)
	readable.Do(func() {
		if readable.dir, readable.err = os.MkdirTemp("", "fdkit-helper-"); readable.err == nil {
			readable.err = copyExecutable(path, filepath.Join(readable.dir, "helper"))
		}
	})
	if readable.err != nil {
		t.Fatal(readable.err)
	}
	return filepath.Join(readable.dir, "helper")
}

func copyExecutable(from, to string) error {
	// A child that another goroutine starts meanwhile has what we write open until it executes, and nobody can execute
	// that until then (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chmod(filepath.Dir(to), 0o755)
}

// Main runs the tests, or the helper that this process was started as. Call it from TestMain.
func Main(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		os.Exit(runHelper(name))
	}
	neutral()
	code := m.Run()
	if readable.dir != "" {
		_ = os.RemoveAll(readable.dir)
	}
	removeBuilt()
	if code == 0 && everythingRan() && len(helpers.unused) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: helpers that no test used: %s\n", strings.Join(sorted(helpers.unused), ", "))
		code = 1
	}
	os.Exit(code)
}

// neutral makes the surroundings of the tests the same, whoever runs them: a service manager of its own says nothing to
// them, and other users can read what is made for them.
func neutral() {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_") || name == "NOTIFY_SOCKET" {
			_ = os.Unsetenv(name)
		}
	}
	syscall.Umask(0o022)
}

func runHelper(name string) int {
	_ = os.Unsetenv(helperVariable)
	main := helpers.mains[name]
	if main == nil {
		fmt.Fprintf(os.Stderr, "no helper is called %q\n", name)
		return 2
	}
	if err := main(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "helper %s: %v\n", name, err)
		return 1
	}
	return 0
}

// everythingRan reports whether the run was a whole one, without a filter.
func everythingRan() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return !testing.Short() && os.Getuid() == 0 // as an ordinary user some tests have nothing to do
}
