//go:build linux

// Package systemdtest runs a real service manager for a test: systemd as pid 1 of a container of its own, with
// this machine's programs and network.
package systemdtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
)

const program = "/lib/systemd/systemd"

// A Manager is a running systemd. Its files are those of the machine, read-only but for Dir; /run, /dev and
// /proc are its own. Network and abstract sockets are the machine's.
type Manager struct {
	// Dir is a folder that the test and the services share, at the same path.
	Dir string

	pid int
	log string
}

// boot makes the container and becomes systemd. It is pid 1 in a pid namespace already.
const boot = `
set -e
dir=$1
mount --make-rprivate /
mount --bind "$dir" "$dir"
mount -o remount,bind,ro /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dev /run/systemd/system
for node in null zero full random urandom tty; do
	: >"/run/dev/$node"
	mount --bind "/dev/$node" "/run/dev/$node"
done
mkdir /run/dev/shm /run/dev/pts
mount --rbind /run/dev /dev
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cat >/run/systemd/system/test.target <<'UNIT'
[Unit]
DefaultDependencies=no
UNIT
exec env -i container=fdkit PATH=/usr/sbin:/usr/bin:/sbin:/bin ` + program + ` --system --unit=test.target \
	--log-target=console --show-status=no --default-standard-output=null
`

// enter gives the first process of the container a control group, which becomes the root of those that
// it sees.
const enter = `echo $$ >"$1/cgroup.procs" && exec unshare --mount --uts --ipc --cgroup sh -c "$3" boot "$2"`

// Start boots a manager, which ends with the test. It needs root with the privilege to make namespaces,
// systemd, and a control group of version 2 that it may divide. Without the first the test is skipped, without
// the others in CI it fails.
func Start(t testing.TB) *Manager {
	t.Helper()
	testutil.NeedRoot(t)
	testutil.NeedProgram(t, program)
	testutil.NeedProgram(t, "systemctl")
	testutil.NeedProgram(t, "nsenter")
	if out, err := exec.Command("unshare", "--mount", "--cgroup", "true").CombinedOutput(); err != nil {
		t.Skipf("no container can be made here: %s", out) // a root without the privilege
	}
	m := &Manager{Dir: t.TempDir()}
	if err := os.Chmod(m.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.log = filepath.Join(m.Dir, "systemd.log")
	log, err := os.Create(m.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	group := makeGroup(t)
	cmd := exec.Command("sh", "-c", enter, "enter", group, m.Dir, boot)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL, // with the test, however that ends
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		removeGroup(t, group)
		cannot(t, err)
	}
	m.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with pid 1 everybody
		<-ended
		removeGroup(t, group)
		if t.Failed() {
			b, _ := os.ReadFile(m.log)
			t.Logf("the manager said:\n%s", b)
		}
	})
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-ended:
			b, _ := os.ReadFile(m.log)
			cannot(t, fmt.Errorf("the container ended: %s", b))
		default:
		}
		if c, err := net.Dial("unix", m.path("/run/systemd/private")); err == nil { // the path is there before it listens
			_ = c.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatal("the manager did not start in two minutes")
		}
	}
	if out, err := m.command("systemctl", "is-system-running", "--wait").CombinedOutput(); err != nil {
		t.Fatalf("is-system-running: %v\n%s", err, out)
	}
	return m
}

// cannot is for machines that do not let anybody run a manager.
func cannot(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip("no service manager can run here:", err)
}

// makeGroup makes a control group in the tree of version 2, wherever that is mounted.
func makeGroup(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			group, err := os.MkdirTemp(f[1], "fdkit-test-")
			if err != nil {
				cannot(t, err)
			}
			return group
		}
	}
	cannot(t, fmt.Errorf("no cgroup2 is mounted"))
	return ""
}

// removeGroup removes a control group with those below it.
func removeGroup(t testing.TB, group string) {
	var groups []string
	_ = filepath.WalkDir(group, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			groups = append(groups, path)
		}
		return nil
	})
	slices.Reverse(groups)
	for _, g := range groups {
		testutil.Eventually(t, "remove "+g, func() bool { err := os.Remove(g); return err == nil || os.IsNotExist(err) })
	}
}

// path is where the test finds a file of the container.
func (m *Manager) path(path string) string { return fmt.Sprintf("/proc/%d/root%s", m.pid, path) }

// command runs a program inside.
func (m *Manager) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.pid), "--all"}, args...)...)
}

// PID returns the pid of the manager, as this machine sees it.
func (m *Manager) PID() int { return m.pid }

// Install writes a unit and tells the manager.
func (m *Manager) Install(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(m.path("/run/systemd/system/"+name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Systemctl(t, "daemon-reload")
}

// Service returns the text of a service unit that runs cmd's program, with the variables that cmd adds to
// the environment; its standard error goes to the file NAME.log of Dir. lines go into [Service].
func (m *Manager) Service(name string, cmd *exec.Cmd, lines ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=%s", quote(cmd.Path))
	for _, arg := range cmd.Args[1:] {
		b.WriteString(" " + quote(arg))
	}
	own := os.Environ()
	for _, v := range cmd.Env {
		if !slices.Contains(own, v) {
			fmt.Fprintf(&b, "\nEnvironment=%s", strings.ReplaceAll(quote(v), "$$", "$"))
		}
	}
	fmt.Fprintf(&b, "\nStandardError=append:%s\n%s\n", filepath.Join(m.Dir, name+".log"), strings.Join(lines, "\n"))
	return b.String()
}

// quote writes a word for a unit file.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(s) + `"`
}

// Systemctl runs systemctl and returns what it printed. It fails the test if that fails.
func (m *Manager) Systemctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := m.Try(args...)
	if err != nil {
		t.Fatalf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Systemctl for what may fail.
func (m *Manager) Try(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := m.command(append([]string{"systemctl"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// Show returns a property of a unit.
func (m *Manager) Show(t testing.TB, unit, property string) string {
	t.Helper()
	return strings.TrimSpace(m.Systemctl(t, "show", "--value", "-p", property, unit))
}

// Await waits until a property of a unit has a value, and fails the test if it does not get it in time.
func (m *Manager) Await(t testing.TB, unit, property, value string) {
	t.Helper()
	have := ""
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if have = m.Show(t, unit, property); have == value {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s of %s is %q after a minute, not %q", property, unit, have, value)
		}
	}
}

// HostPID turns a pid of the container, such as Show(unit, "MainPID"), into that which this machine sees; 0 if
// there is none.
func (m *Manager) HostPID(t testing.TB, pid string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err != nil || ns != own {
			continue
		}
		status, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == pid {
				host, _ := strconv.Atoi(e.Name())
				return host
			}
		}
	}
	return 0
}

// Log returns what a service of [Manager.Service] has written to its standard error.
func (m *Manager) Log(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.Dir, name+".log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}
