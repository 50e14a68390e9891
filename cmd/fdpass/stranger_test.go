//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/supervise"
	"github.com/fdkit/fdkit/internal/testutil"
)

// What a user who is neither root nor the service's can do at the paths and names that fdpass makes is nothing.

var trespass = testutil.NewHelper("trespass", testutil.Trespass)

// asStranger makes a command one of another user's.
func asStranger(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testutil.Stranger, Gid: testutil.Stranger}}
	cmd.Dir = "/"
	return cmd
}

// begin starts a helper of a stranger's, which ends with the test, and returns when it has said a line.
func begin(t testing.TB, h testutil.Helper, args ...string) {
	t.Helper()
	lines := testutil.Begin(t, h.CommandAs(t, testutil.Stranger, testutil.Stranger, nil, args...))
	if !lines.Scan() {
		t.Fatalf("the helper said nothing: %v", lines.Err())
	}
}

// crowd is a stranger who connects often and says nothing.
var crowd = testutil.NewHelper("crowd", func(args []string) error {
	var conns []net.Conn
	for range 300 {
		c, err := net.Dial(args[0], args[1])
		if errors.Is(err, unix.EAGAIN) { // the queue is full: he is let in no faster
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	fmt.Println("all silent")
	_, err := io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns)
	return err
})

// impostor is a stranger who listens at a name first and answers as a service would.
var impostor = testutil.NewHelper("impostor", func(args []string) error {
	ln, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = json.NewEncoder(c).Encode(supervise.Answer{Status: &supervise.Status{Name: "impostor"}})
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	fmt.Println("listens")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
})

// squats is a stranger who binds to paths first.
var squats = testutil.NewHelper("squats", func(args []string) error {
	for _, path := range args {
		ln, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		defer ln.Close()
	}
	fmt.Println("bound")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
})

// A made is something that makes paths.
type made struct {
	what    string
	start   func(t *testing.T, dir string) (goesOn, stop func())
	names   []string // what it makes in dir, and may look for
	open    []string // what everybody can do there, as he is meant to
	trusted bool     // only where strangers cannot write
}

// sees starts a session that makes a path, and returns when it is there.
func sees(t *testing.T, path string, args ...string) *session {
	t.Helper()
	s := newSession(t, nil, args...)
	s.start(t)
	appears(t, path)
	return s
}

func makers() []made {
	listens := func(style, way string, then func(t *testing.T, s *session, path string)) func(*testing.T, string) (goesOn, stop func()) {
		return func(t *testing.T, dir string) (goesOn, stop func()) {
			path := filepath.Join(dir, "x")
			args := []string{way, "--listen", path, "--style", style, "--timeout", "5m"}
			if way == "send" {
				args = append(args, "file:/dev/null")
			}
			s := sees(t, path, args...)
			goesOn = func() {
				t.Helper()
				then(t, s, path)
				s.ends(t, 0)
				if strings.Contains(s.stdout.String(), "stranger") || s.stderr.Len() > 0 {
					t.Errorf("%s%s", s.stdout.String(), s.stderr.String())
				}
			}
			stop = func() {
				_ = s.Process.Signal(syscall.SIGTERM)
				s.ends(t, 128+int(syscall.SIGTERM))
			}
			return goesOn, stop
		}
	}
	sends := func(style string) func(t *testing.T, s *session, path string) {
		return func(t *testing.T, _ *session, path string) {
			newSession(t, nil, "send", "--connect", path, "--style", style, "--timeout", "5m", "file:/dev/null").run(t, 0)
		}
	}
	return []made{
		{what: "recv", start: listens("stream", "recv", sends("stream")), names: []string{"x"}},
		{what: "recv datagrams", start: listens("datagram", "recv", sends("datagram")), names: []string{"x"}},
		{what: "send", names: []string{"x"}, start: listens("seqpacket", "send", func(t *testing.T, _ *session, path string) {
			newSession(t, nil, "recv", "--connect", path, "--style", "seqpacket", "--timeout", "5m").run(t, 0)
		})},
		{what: "serve", names: []string{"c", "web"}, start: func(t *testing.T, dir string) (goesOn, stop func()) {
			file := filepath.Join(t.TempDir(), "mode")
			cmd := goServer.Command(t, file)
			web := filepath.Join(dir, "web")
			s := newService(t, append([]string{"-l", "tcp://127.0.0.1:0", "-l", "unix:" + web, "--mode", "0600", "--ready", "notify", "--"}, cmd.Args...)...)
			s.control = filepath.Join(dir, "c")
			s.cmd.Args[3] = s.control
			s.cmd.Env, s.mode = cmd.Env, file
			s.set("ready")
			s.start()
			s.await("1 live")
			stop = func() {
				s.signal(unix.SIGTERM)
				s.end()
			}
			goesOn = func() {
				if out, code := s.fdpass("restart"); code != 0 {
					t.Error(out)
				}
				s.await("2 live")
				if out, _ := s.fdpass("status"); strings.Contains(out, "MISSING") {
					t.Error(out)
				}
				stop()
				for _, path := range []string{s.control, web} {
					if _, err := os.Lstat(path); err == nil {
						t.Errorf("%s is left", path)
					}
				}
			}
			return goesOn, stop
		}},
		{what: "hold", trusted: true, names: []string{"s", "s.handoff", "s.handoff.lock", "s.handoff.new"}, start: func(t *testing.T, dir string) (goesOn, stop func()) {
			path := filepath.Join(dir, "s")
			h := hold(t, path)
			inodes := fill(t, path, 3)
			return func() {
				mustHave(t, path, inodes)
				next := hold(t, path)
				h.mustEndWell()
				mustHave(t, path, inodes)
				_ = next.Process.Signal(syscall.SIGTERM)
				next.mustEndWell()
			}, nil
		}},
		// Whoever the program becomes can write to the socket; who is believed is another question: TestWaitReadyUsers.
		{what: "wait-ready", names: []string{"pid", "notify/notify"}, open: []string{"connect notify/notify"}, start: func(t *testing.T, dir string) (goesOn, stop func()) {
			cmd := program(t, "fdpass", "wait-ready", "--pid-file", filepath.Join(dir, "pid"), "--", "sh", "-c",
				"fdpass notify --ready; until [ -e stop ]; do sleep 0.01; done")
			cmd.Env = append(cmd.Env, "TMPDIR="+dir)
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			own, err := filepath.Glob(filepath.Join(dir, "fdpass-*"))
			if err != nil || len(own) != 1 {
				t.Fatalf("%q, %v", own, err)
			}
			if err := os.Symlink(filepath.Base(own[0]), filepath.Join(dir, "notify")); err != nil {
				t.Fatal(err)
			}
			pid := pidIn(t, filepath.Join(dir, "pid"))
			stop = func() {
				if err := os.WriteFile(filepath.Join(cmd.Dir, "stop"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, cmd.Dir)
				nothingLeft(t, filepath.Join(dir, "pid")) // who stays has it in its command line
			}
			goesOn = func() {
				if now := pidIn(t, filepath.Join(dir, "pid")); now != pid {
					t.Errorf("the pid file has %d, it was %d", now, pid)
				}
				stop()
				for _, path := range []string{own[0], filepath.Join(dir, "pid")} {
					if _, err := os.Lstat(path); err == nil {
						t.Errorf("%s is left", path)
					}
				}
			}
			return goesOn, stop
		}},
	}
}

// In a folder that only its user writes to, and in one like /tmp, a stranger can do nothing to what is there,
// and everything goes on and is cleaned up.
func TestStrangerAtPaths(t *testing.T) {
	testutil.NeedRoot(t)
	t.Parallel() // with a locked folder it is waiting, mostly
	for _, mode := range []os.FileMode{0o755, 0o777 | os.ModeSticky} {
		for _, m := range makers() {
			if m.trusted && mode.Perm() == 0o777 {
				continue // see TestStrangerWasFirst
			}
			t.Run(fmt.Sprintf("%s in %v", m.what, mode), func(t *testing.T) {
				t.Parallel()
				dir := testutil.PublicDir(t, mode)
				goesOn, _ := m.start(t, dir)
				worked := trespass.TrespassIn(t, dir, m.names...)
				want := append(slices.Clone(m.open), "lock the folder")
				if slices.Sort(worked); !slices.Equal(slices.Compact(worked), want) {
					t.Errorf("a stranger could %q, want %q", worked, want)
				}
				goesOn()
			})
		}
	}
}

// Where a stranger was first, fdpass says so, takes nothing for its own, and leaves it.
func TestStrangerWasFirst(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.NoLeaks(t)
	dir := testutil.PublicDir(t, 0o777|os.ModeSticky)
	var paths []string
	for _, name := range []string{"x", "c", "s", "s.handoff"} {
		paths = append(paths, filepath.Join(dir, name))
	}
	begin(t, squats, paths...)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"recv", "--listen", "x", "--timeout", "5m"}, `x is there already`},
		{[]string{"recv", "--listen", "x", "--style", "datagram", "--timeout", "5m"}, `x is there already`},
		{[]string{"send", "--listen", "x", "--timeout", "5m", "file:/dev/null"}, `x is there already`},
		{[]string{"serve", "--control", "c", "-l", "tcp://127.0.0.1:0", "--", "sleep", "600"}, "does another"},
		{[]string{"serve", "--control", "none", "-l", "unix:x", "--", "sleep", "600"}, "a process serves this path"},
		{[]string{"hold", "--socket", "s"}, "give the socket a folder of the service's own"},
		{[]string{"send", "--connect", "x", "--same-user", "file:/dev/null"}, "it is not the same user"},
		{[]string{"recv", "--connect", "x", "--same-user"}, "it is not the same user"},
	} {
		cmd := program(t, "fdpass", c.args...)
		cmd.Dir, cmd.Stderr = dir, nil
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), c.want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%q: %v, %q; want status 1 and %q", c.args, err, out, c.want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != len(paths) {
		t.Errorf("left: %v, %v", left, err)
	}
	for _, path := range paths {
		if c, err := net.Dial("unix", path); err != nil {
			t.Errorf("the stranger's socket: %v", err)
		} else {
			c.Close()
		}
	}
}

// In a folder without the sticky bit a stranger can take a path away. Then it is his: nothing that his links point to is
// touched, and at the end they stay.
func TestStrangerReplacesPath(t *testing.T) {
	testutil.NeedRoot(t)
	binary(t)
	for _, m := range makers() {
		if m.trusted {
			continue
		}
		t.Run(m.what, func(t *testing.T) {
			dir := testutil.PublicDir(t, 0o777)
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("keep"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, stop := m.start(t, dir)
			names := slices.DeleteFunc(m.names, func(name string) bool { return strings.Contains(name, "/") }) // in a folder of its own
			for _, name := range names {
				if out, err := asStranger(exec.Command("ln", "-sfn", victim, filepath.Join(dir, name))).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			stop()
			for _, name := range names {
				if to, err := os.Readlink(filepath.Join(dir, name)); to != victim {
					t.Errorf("his %s: %q, %v", name, to, err)
				}
			}
			if b, err := os.ReadFile(victim); string(b) != "keep" {
				t.Errorf("the file has %q, %v", b, err)
			}
		})
	}
}

// The name of a folder that publish has made may be that of another one at the end.
func TestStrangerReplacesFolder(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs")
	keep := filepath.Join(theirs, "keep")
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	folder := ""
	remove, err := publish(filepath.Join(dir, "x"), func(path string) error {
		ln, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		defer ln.Close()
		folder = filepath.Dir(path)
		if err := os.Rename(folder, folder+".gone"); err != nil {
			return err
		}
		return os.Rename(theirs, folder)
	})
	if err == nil {
		remove()
		t.Error("it has a path")
	}
	if _, err := os.Lstat(filepath.Join(folder, "keep")); err != nil {
		t.Errorf("what was moved there: %v", err)
	}
}

// A pid file is written where strangers may have links and pipes.
func TestStrangerAtPIDFile(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "pid")
	for _, path := range []string{pidFile, pidFile + ".new"} {
		if err := os.Symlink(victim, path); err != nil {
			t.Fatal(err)
		}
	}
	cmd := program(t, "fdpass", "wait-ready", "--pid-file", pidFile, "--", "sh", "-c", "fdpass notify --ready; until [ -e stop ]; do sleep 0.01; done")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(victim); string(b) != "keep" {
		t.Errorf("the file has %q, %v", b, err)
	}
	pidIn(t, pidFile)
	if info, err := os.Lstat(pidFile); err != nil || info.Mode() != 0o644 {
		t.Errorf("the pid file: %v, %v", info.Mode(), err)
	}
	// A pipe in its place would be read for ever.
	if err := os.Remove(pidFile); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pidFile, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cmd.Dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, pidFile)
	if _, err := os.Lstat(pidFile); err != nil {
		t.Errorf("somebody else's path: %v", err)
	}
}

// notifySocketOf returns the abstract name at which a service hears its programs, which everybody can read.
func notifySocketOf(t *testing.T, service string, generation int) string {
	t.Helper()
	all, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	prefix := fmt.Sprintf("@fdpass/notify/%s/%d/", service, generation)
	for _, field := range strings.Fields(string(all)) {
		if strings.HasPrefix(field, prefix) {
			return field
		}
	}
	t.Fatalf("there is no %s", prefix)
	return ""
}

// A stranger who knows where a program says that it is ready does not say so for it, not even if nobody can find out
// any more whose process it was.
func TestStrangerNotifies(t *testing.T) {
	testutil.NeedRoot(t)
	t.Parallel()
	name := fmt.Sprintf("stranger-%d", os.Getpid())
	s := serveProgram(t, "ready", "--name", name, "--ready", "notify", "--timeout", "10m")
	s.await("1 live")
	s.set("silent")
	s.signal(unix.SIGHUP)
	s.await("1 live, 2 starting")
	socket := notifySocketOf(t, name, 2)
	// Their processes have ended, and are reaped, before fdpass reads.
	tell := func(cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
	testutil.Suspend(t, s.cmd.Process.Pid)
	tell(says.CommandAs(t, testutil.Stranger, testutil.Stranger, nil, socket, "READY=1\nSTATUS=a stranger's"))
	tell(says.Command(t, socket, "STATUS=ours")) // is behind it
	s.signal(unix.SIGCONT)
	s.until("it is heard", func() bool {
		g := s.generations()
		if len(g) != 2 || g[1].State != supervise.Starting || g[1].Says == "a stranger's" {
			t.Fatalf("a stranger is believed: %+v", g)
		}
		return g[1].Says == "ours"
	})
	flood := floods.CommandAs(t, testutil.Stranger, testutil.Stranger, nil, socket)
	if lines := testutil.Begin(t, flood); !lines.Scan() {
		t.Fatalf("the helper said nothing: %v", lines.Err())
	}
	// While fdpass is stopped the flood would leave no room.
	testutil.Suspend(t, flood.Process.Pid)
	hears(t, socket, "X_TEST=1")
	testutil.Suspend(t, s.cmd.Process.Pid)
	for range 3 {
		tell(says.CommandAs(t, testutil.Stranger, testutil.Stranger, nil, socket, "READY=1\nSTATUS=a stranger's"))
	}
	tell(says.Command(t, socket, "READY=1"))
	for _, pid := range []int{flood.Process.Pid, s.cmd.Process.Pid} {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	s.await("2 live")
}

// says sends one datagram.
var says = testutil.NewHelper("says", func(args []string) error {
	c, err := net.Dial("unixgram", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.WriteString(c, args[1])
	return err
})

// floods is a stranger who says that it is ready, again and again.
var floods = testutil.NewHelper("floods", func(args []string) error {
	c, err := net.Dial("unixgram", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for n := 0; ; n++ {
		if n == 1000 {
			fmt.Println("a thousand")
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte("READY=1\nSTATUS=a stranger's")); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			<-make(chan struct{}) // the generation has ended; until this is let go
		}
		time.Sleep(50 * time.Microsecond) // the machine is others' too
	}
})

// A name that root does not say the place of may be a stranger's: what he says is not shown, and no service is lost
// behind his.
func TestStrangerIsNoService(t *testing.T) {
	testutil.NeedRoot(t)
	name := fmt.Sprintf("impostor-%d", os.Getpid())
	begin(t, impostor, "@fdpass/0/"+name)
	for _, what := range []string{"status", "restart"} {
		if out, code := runFdpass(t, what, "--timeout", "5m", name); code != 1 || !strings.Contains(out, "it is not (the same user or root)") {
			t.Errorf("%s: status %d, %q", what, code, out)
		}
	}
	// Whoever says where, gets it.
	if out, code := runFdpass(t, "status", "--control", "@fdpass/0/"+name); code != 0 || !strings.Contains(out, "impostor") {
		t.Errorf("status %d, %q", code, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if c, err := supervise.Dial(ctx, "", ""); err == nil { // of whatever runs here
		c.Close()
	} else if strings.Contains(err.Error(), name) {
		t.Error(err)
	}
}

// Strangers who are let in as far as the door, and stay there silent, keep nobody out.
func TestStrangersAreSilent(t *testing.T) {
	testutil.NeedRoot(t)
	abstract := fmt.Sprintf("@fdpass-test-%d-", os.Getpid())

	t.Run("hold", func(t *testing.T) {
		path := filepath.Join(testutil.PublicDir(t, 0o755), "s")
		hold(t, path, "--allow", "uid:4242=all")
		inodes := fill(t, path, 1)
		begin(t, crowd, "unix", path)
		mustHave(t, path, inodes)
		cmd := asStranger(exec.Command(binary(t), "list"))
		out, err := runCommand(cmd, path, nil)
		if mustFail(t, 1, "the holder does not allow it to this user")(out, err); out != "" {
			t.Errorf("he learns %q", out)
		}
	})
	t.Run("one who is let in", func(t *testing.T) {
		path := filepath.Join(testutil.PublicDir(t, 0o755), "s")
		hold(t, path, "--allow", "uid:"+strconv.Itoa(testutil.Stranger)+"=list:^public")
		inodes := fill(t, path, 1)
		begin(t, crowd, "unix", path)
		mustHave(t, path, inodes)
	})
	t.Run("serve", func(t *testing.T) {
		s := newService(t, "-l", "tcp://127.0.0.1:0", "--ready", "0", "--", "sleep", "600")
		s.control = abstract + "control"
		s.cmd.Args[3] = s.control
		s.start()
		s.await("1 live")
		begin(t, crowd, "unix", s.control)
		if out, code := s.fdpass("restart"); code != 0 {
			t.Error(out)
		}
	})
	t.Run("recv", func(t *testing.T) {
		name := abstract + "recv"
		r := newSession(t, nil, "recv", "--listen", name, "--same-user", "--timeout", "5m")
		r.start(t)
		testutil.Eventually(t, "it listens", func() bool {
			all, err := os.ReadFile("/proc/net/unix")
			return err == nil && strings.Contains(string(all), name)
		})
		begin(t, crowd, "unix", name)
		newSession(t, nil, "send", "--connect", name, "--timeout", "5m", "file:/dev/null").run(t, 0)
		r.ends(t, 0)
		if !strings.Contains(r.stderr.String(), "refused") {
			t.Errorf("nobody was refused: %s", r.stderr.String())
		}
	})
}
