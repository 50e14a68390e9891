//go:build linux

package testutil

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A Feature is something that not every kernel has.
type Feature struct {
	Name  string
	Since [2]int       // the version of Linux that brought it
	Probe func() error // nil if this kernel has it

	// A kernel can be built or told to do without it, and what runs a container can refuse it: ENOSYS, EPERM.
	SwitchedOff bool
}

// Need skips the test if the kernel is older than the feature. A kernel that should have it and
// does not fails the test: a skip there would hide that nothing was tested.
func Need(t testing.TB, f Feature) {
	t.Helper()
	err := f.Probe()
	if err == nil {
		return
	}
	if f.SwitchedOff && (err == unix.ENOSYS || err == unix.EPERM) {
		t.Skipf("%s is switched off on this machine: %v", f.Name, err)
	}
	have := kernel(t)
	if have[0] > f.Since[0] || have[0] == f.Since[0] && have[1] >= f.Since[1] {
		t.Fatalf("%s is in Linux since %d.%d and this is %d.%d, but: %v", f.Name, f.Since[0], f.Since[1], have[0], have[1], err)
	}
	t.Skipf("%s needs Linux %d.%d, this is %d.%d", f.Name, f.Since[0], f.Since[1], have[0], have[1])
}

func kernel(t testing.TB) (version [2]int) {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &version[0], &version[1]); err != nil {
		t.Fatal(err)
	}
	return version
}

// NeedRoot skips the test for an ordinary user.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// NeedProgram returns the path of a program, and skips the test if there is none. In CI, which
// installs what the tests need, that is a failure.
func NeedProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must install it: %v", err)
	}
	t.Skip(err)
	return ""
}

func optionProbe(option int) func() error {
	return func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fds[0])
		defer unix.Close(fds[1])
		return unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, option, 1)
	}
}

// What the tests ask for.
var (
	PassPIDFD  = Feature{Name: "SO_PASSPIDFD", Since: [2]int{6, 5}, Probe: optionProbe(unix.SO_PASSPIDFD)}
	PassRights = Feature{Name: "SO_PASSRIGHTS", Since: [2]int{6, 16}, Probe: optionProbe(unix.SO_PASSRIGHTS)}
	PIDFDInfo  = Feature{Name: "PIDFD_GET_INFO", Since: [2]int{6, 13}, Probe: func() error {
		pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			return err
		}
		defer unix.Close(pidfd)
		return unix.IoctlPidfdInfo(pidfd, &unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID})
	}}
	IOURing = Feature{Name: "io_uring", Since: [2]int{5, 1}, SwitchedOff: true, Probe: func() error {
		fd, err := IOURingSetup()
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}}
)
