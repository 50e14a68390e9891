//go:build linux

package systemd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/systemd"
)

// started is output for Start.
func started(t *testing.T, cmd *exec.Cmd, descriptors ...systemd.Named) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := systemd.Start(cmd, descriptors...); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

func liveListener(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func nonblocking(t *testing.T, c syscall.Conn) bool {
	t.Helper()
	flags, err := sysfd.Ask(c, func(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_NONBLOCK != 0
}

func TestStart(t *testing.T) {
	testutil.NoLeaks(t)
	t.Setenv("LISTEN_FDNAMES", "stale")
	t.Setenv("LISTEN_PID", "1")
	ln := liveListener(t)
	null := openNull(t)
	cmd := showInherited.Command(t)
	path, args := cmd.Path, fmt.Sprint(cmd.Args)
	got := started(t, cmd, systemd.Named{Name: "web", Conn: ln}, systemd.Named{Name: "web", Conn: null}, systemd.Named{Conn: ln})
	listener := "socket SOCK_STREAM listening true " + ln.Addr().String() + ", close-on-exec\n"
	if want := "web: " + listener + "web: character device, close-on-exec\n: " + listener; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if cmd.Path != path || fmt.Sprint(cmd.Args) != args || cmd.ExtraFiles != nil {
		t.Errorf("the command became %s %v", cmd.Path, cmd.Args)
	}
	// It lives on as it was: with deadlines, not blocking.
	if !nonblocking(t, ln) {
		t.Error("the listener became blocking")
	}
	ln.SetDeadline(time.Now().Add(time.Millisecond))
	if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accept with a deadline: %v", err)
	}
}

// The control: os/exec itself does turn it.
func TestExtraFilesTurnsBlocking(t *testing.T) {
	testutil.NoLeaks(t)
	ln, f := listen(t, "tcp")
	cmd := commandWithin(t, "/bin/true")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if nonblocking(t, ln.(*net.TCPListener)) {
		t.Error("os/exec leaves the mode alone: then Start could too")
	}
}

// What the child sees, but for the variables, is what it sees without the stub.
func TestStartSame(t *testing.T) {
	testutil.NoLeaks(t)
	ln := liveListener(t)
	extra := openNull(t)
	script := `echo "$0 $# $1"; pwd; ulimit -Sn; ulimit -Hn; grep -E '^(Sig(Blk|Ign|Cgt)|Cap|Uid|Gid|Groups|NoNewPrivs|PPid)' /proc/self/status
		for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && echo "$fd $(readlink /proc/$$/fd/$fd)"; done
		env | grep -vE '^(LISTEN_|_=)' | sort`
	command := func() *exec.Cmd {
		cmd := commandWithin(t, "/bin/sh", "-c", script, "name", "argument of two")
		cmd.Dir = "/usr"
		return cmd
	}
	with := command()
	with.ExtraFiles = []*os.File{extra}
	got := started(t, with, systemd.Named{Name: "a", Conn: ln})
	direct := command()
	direct.ExtraFiles = []*os.File{dup(t, ln), extra}
	if want := output(t, direct); pipes(got) != pipes(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// pipes replaces the number of the pipe to which the output goes.
func pipes(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "1 pipe:") || strings.HasPrefix(line, "PPid") {
			lines[i] = "…"
		}
	}
	return strings.Join(lines, "\n")
}

func dup(t *testing.T, c syscall.Conn) *os.File {
	t.Helper()
	fd, err := sysfd.Ask(c, sysfd.Dup)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "dup")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestStartVariables(t *testing.T) {
	testutil.NoLeaks(t)
	t.Setenv("LISTEN_PIDFDID", "1")
	t.Setenv("LISTEN_FDS", "7")
	ln := liveListener(t)
	show := `[ "$LISTEN_PID" = $$ ] && echo own; echo "$LISTEN_FDS $LISTEN_FDNAMES"`
	if got := started(t, commandWithin(t, "/bin/sh", "-c", show), systemd.Named{Name: "a b", Conn: ln}, systemd.Named{Conn: ln}); got != "own\n2 a b:\n" {
		t.Errorf("%q", got)
	}
	// Nothing to give: what was meant for us is not for the child.
	if got := started(t, commandWithin(t, "/bin/sh", "-c", "env | grep LISTEN_ || echo none")); got != "none\n" {
		t.Errorf("%q", got)
	}
	// An environment of its own stays that.
	cmd := commandWithin(t, "/usr/bin/env")
	cmd.Env = []string{"A=1", "LISTEN_FDS=9"}
	got := started(t, cmd, systemd.Named{Name: "a", Conn: ln})
	if !strings.HasPrefix(got, "A=1\nLISTEN_FDS=1\nLISTEN_FDNAMES=a\nLISTEN_PID=") {
		t.Errorf("%q", got)
	}
}

func TestStartAsOtherUser(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	cmd := showInherited.CommandAs(t, 4242, 4242, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(self, 0o755); err != nil { // go test made it, with the umask of whoever runs it
		t.Fatal(err)
	}
	got := started(t, cmd, systemd.Named{Name: "a", Conn: liveListener(t)})
	if !strings.HasPrefix(got, "a: socket SOCK_STREAM listening true") {
		t.Errorf("%q", got)
	}
}

func TestStartFails(t *testing.T) {
	testutil.NoLeaks(t)
	ln := liveListener(t)
	closed := liveListener(t)
	closed.Close()
	web := systemd.Named{Name: "web", Conn: ln}
	for _, c := range []struct {
		what        string
		cmd         *exec.Cmd
		descriptors []systemd.Named
		want        error
	}{
		{"no such file", exec.Command("/nowhere/program"), []systemd.Named{web}, syscall.ENOENT},
		{"not executable", exec.Command("/etc/passwd"), []systemd.Named{web}, syscall.EACCES},
		{"a folder", exec.Command("/etc"), []systemd.Named{web}, syscall.EACCES},
		{"not in PATH", exec.Command("fdkit-no-such-program"), []systemd.Named{web}, exec.ErrNotFound},
		{"a colon", exec.Command("/bin/true"), []systemd.Named{{Name: "a:b", Conn: ln}}, syscall.EINVAL},
		{"nothing", exec.Command("/bin/true"), []systemd.Named{web, {Name: "nil"}}, os.ErrInvalid},
		{"closed", exec.Command("/bin/true"), []systemd.Named{web, {Name: "closed", Conn: closed}}, net.ErrClosed},
		{"no such folder", &exec.Cmd{Path: "/bin/true", Dir: "/nowhere"}, []systemd.Named{web}, syscall.ENOENT},
		{"no program", &exec.Cmd{}, []systemd.Named{web}, nil},
	} {
		err := systemd.Start(c.cmd, c.descriptors...)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// Nobody is left to wait for.
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
	for free := range 3 {
		empty := testutil.FillTable(t, free)
		err := systemd.Start(exec.Command("/bin/true"), web, web)
		empty()
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("with %d free places: %v", free, err)
		}
	}
}

// A foreign program that asks sd_listen_fds(3), and ignores descriptors that are not for its pid.
func TestStartSocketProxyd(t *testing.T) {
	testutil.NoLeaks(t)
	program := "/lib/systemd/systemd-socket-proxyd"
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	target := liveListener(t)
	front, err := net.Listen("unix", filepath.Join(testutil.ShortDir(t), "front"))
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	cmd := commandWithin(t, program, target.Addr().String())
	if err := systemd.Start(cmd, systemd.Named{Name: "front", Conn: front.(*net.UnixListener)}); err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := target.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "through the proxy")
	}()
	c, err := net.Dial("unix", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if b, err := io.ReadAll(c); string(b) != "through the proxy" {
		t.Errorf("%q, %v", b, err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
}

func BenchmarkStart(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	b.Run("stub", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.Command("/bin/true")
			if err := systemd.Start(cmd, systemd.Named{Name: "a", Conn: ln.(*net.TCPListener)}); err != nil {
				b.Fatal(err)
			}
			cmd.Wait()
		}
	})
	b.Run("shell", func(b *testing.B) {
		for b.Loop() {
			exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", "/bin/true").Run()
		}
	})
	b.Run("direct", func(b *testing.B) {
		for b.Loop() {
			exec.Command("/bin/true").Run()
		}
	})
}
