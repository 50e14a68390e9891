package testutil

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Privilege is what a process may do that is root by its number and not all that root is.
type Privilege string

// The privileges.
const (
	// WithoutSysAdmin is root without CAP_SYS_ADMIN, and without CAP_SYS_RESOURCE, as in a container. It takes
	// root to become that.
	WithoutSysAdmin Privilege = "root without CAP_SYS_ADMIN"

	// NamespaceRoot is root of a user namespace, with all capabilities there and none outside. Started by
	// root, it has the same numbers for the first 65536 users and can be any of them; started by an ordinary
	// user, there is nobody in it but this user, as root.
	NamespaceRoot Privilege = "root of a user namespace"
)

// Become makes a command run with the privilege. It skips the test where that cannot be had. Call it before
// NoLeaks: package syscall leaks a pipe when clone(2) refuses a user namespace.
func (p Privilege) Become(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if p == WithoutSysAdmin {
		NeedRoot(t)
		setpriv := NeedProgram(t, "setpriv")
		cmd.Args = append([]string{setpriv, "--bounding-set", "-sys_admin,-sys_resource", "--inh-caps", "-sys_admin,-sys_resource", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = setpriv
		return cmd
	}
	if err := userNamespaces(); err != nil {
		t.Skipf("this machine has no user namespaces for us: %v", err)
	}
	inUserNamespace(cmd)
	return cmd
}

// userNamespaces is whether this machine lets us make them; a container may not.
var userNamespaces = sync.OnceValue(func() error {
	cmd := exec.Command("true")
	inUserNamespace(cmd)
	return cmd.Run()
})

func inUserNamespace(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	size := 1
	if os.Geteuid() == 0 {
		size = 1 << 16
	}
	a := cmd.SysProcAttr
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: size}}
	a.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: size}}
	a.GidMappingsEnableSetgroups = size > 1
}

// Rerun runs tests of this package again, for each privilege in a process of their own. Those of root need other
// users beside; they run again only if this is root. One that fails, is not there, or skips any part of it,
// fails this test.
func Rerun(t *testing.T, tests []string, ofRoot ...string) {
	t.Helper()
	if os.Geteuid() == 0 {
		tests = append(slices.Clone(tests), ofRoot...)
	}
	for _, p := range []Privilege{WithoutSysAdmin, NamespaceRoot} {
		t.Run(string(p), func(t *testing.T) { p.rerun(t, tests) })
	}
}

func (p Privilege) rerun(t *testing.T, tests []string) {
	limit := 8 * time.Minute
	if end, ok := t.Deadline(); ok {
		limit = min(limit, max(time.Until(end)-30*time.Second, time.Second)) // it says what it does when its own time is over
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, executable(t), "-test.run=^("+strings.Join(tests, "|")+")$", "-test.v=test2json", "-test.timeout="+limit.String())
	p.Become(t, cmd)
	cmd.Env = append(os.Environ(), builtVariable+"="+builtDir())
	var said bytes.Buffer // of one who still has it when the tests are over, nobody waits for more
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, 5*time.Second
	err := cmd.Run()
	passed := map[string]bool{}
	for line := range strings.Lines(said.String()) {
		_, line, _ = strings.Cut(line, "\x16") // which marks what package testing says
		if what, ok := strings.CutPrefix(line, "--- PASS: "); ok {
			name, _, _ := strings.Cut(what, " ")
			passed[name] = true
		}
		if strings.Contains(line, "--- SKIP: ") {
			t.Errorf("a part is skipped: %s", line)
		}
	}
	for _, name := range tests {
		if !passed[name] {
			t.Errorf("%s did not pass", name)
		}
	}
	if err != nil {
		t.Errorf("%v", err)
	}
	if t.Failed() {
		t.Logf("%s", strings.ReplaceAll(said.String(), "\x16", ""))
	}
}

// MayForge reports whether this process may write messages in the name of another one, which takes CAP_SYS_ADMIN
// in the user namespace that has its pid namespace: not every root has it.
func MayForge(t testing.TB) bool {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	parent := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getppid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
	return unix.Sendmsg(fds[0], []byte("x"), parent, nil, 0) == nil
}
