//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/supervise"
	"github.com/fdkit/fdkit/internal/testutil"
)

// copyOf is a copy of fdpass that can be replaced.
func copyOf(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeProgram(t, to, text)
}

// writeProgram writes an executable. A child that another test starts meanwhile would have it open for writing
// until it executes its own, and nobody can execute it then: ETXTBSY.
func writeProgram(t *testing.T, to string, text []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	err := os.WriteFile(to+".new", text, 0o755)
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// replaceable is a service that runs a copy of fdpass.
func replaceable(t *testing.T) (s *service, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fdpass")
	copyOf(t, binary(t), path)
	file := filepath.Join(t.TempDir(), "mode")
	cmd := goServer.Command(t, file)
	s = newService(t, append([]string{"--name", "web", "-l", "tcp://127.0.0.1:0", "--ready", "notify", "--drain", "1h", "--"}, cmd.Args...)...)
	s.cmd.Path, s.cmd.Args[0] = path, path
	s.cmd.Env, s.mode = cmd.Env, file
	s.set("ready die=5")
	s.start()
	s.await("1 live")
	return s, path
}

// fds are the descriptors of a process, by number.
func fds(t *testing.T, pid int) map[string]string {
	t.Helper()
	all := map[string]string{}
	var entries []os.DirEntry
	testutil.Eventually(t, fmt.Sprintf("the descriptors of %d can be read", pid), func() (ok bool) {
		var err error
		entries, err = os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		return !errors.Is(err, os.ErrPermission) // in the middle of exec(2) they are nobody's
	})
	for _, e := range entries {
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name())); err == nil && !strings.HasPrefix(link, "/sys/fs/cgroup/") {
			all[e.Name()] = link
		}
	}
	return all
}

// exe is the file that a process executes; what has replaced a path has another inode.
func exe(t *testing.T, pid int) string {
	t.Helper()
	var st unix.Stat_t
	testutil.Eventually(t, "it has an executable", func() bool { // in the middle of exec(2) it has none
		return unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st) == nil
	})
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// fdpass replaces itself in place: the program does not notice, and everything goes on: a drain, a failed
// generation in the status, notifications, standard error, reaping, restarts.
func TestReplace(t *testing.T) {
	t.Parallel()
	s, path := replaceable(t)
	pid := s.cmd.Process.Pid
	held := s.hold()
	if out, code := s.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	s.set("exit=9")
	if _, code := s.fdpass("restart"); code != 1 {
		t.Fatal("a bad generation")
	}
	s.await("1 draining, 2 live, 3 failed")
	before := s.generations()
	served, old := s.served(), exe(t, pid)
	count := len(fds(t, pid))

	for i := range 3 {
		copyOf(t, binary(t), path)
		if out, code := s.fdpass("restart", "--self"); out != "" || code != 0 {
			t.Fatalf("%d, %s", code, out)
		}
		if now := exe(t, pid); now == old {
			t.Errorf("replacement %d: still the old program", i)
		} else {
			old = now
		}
		if s.states() != "1 draining, 2 live, 3 failed" || s.served() != served {
			t.Errorf("replacement %d: %s", i, s.states())
		}
	}
	after := s.generations()
	for i := range before {
		before[i].Seconds, after[i].Seconds = 0, 0
		if before[i] != after[i] {
			t.Errorf("%+v was %+v", after[i], before[i])
		}
	}
	s.until("no descriptor is left behind", func() bool { return len(fds(t, pid)) <= count })
	if got := s.ask("status").Status; got.PID != pid || got.Sockets[0].Bound != s.addr || got.Seconds <= 0 {
		t.Errorf("%+v", got)
	}

	// USR2 as well, and none of it disturbs a generation that is starting.
	s.set("silent")
	go s.fdpass("restart")
	s.await("1 draining, 2 live, 3 failed, 4 starting")
	s.signal(unix.SIGUSR2)
	copyOf(t, binary(t), path)
	if err := unix.Kill(s.pid(4), unix.SIGTERM); err != nil { // it fails, and so the replacement's turn has come
		t.Fatal(err)
	}
	s.until("it is replaced", func() bool { return exe(t, pid) != old })
	s.await("1 draining, 2 live, 4 failed")
	s.set("ready die=5") // not for generation 4, which may have read late what to do

	if out, code := s.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	s.await("1 draining, 5 live")
	if first, err := held(); err != nil || first != before[0].PID {
		t.Errorf("the request that was held all the time: %d, %v", first, err)
	}
	s.await("5 live")
	_, _ = s.get("/die")
	s.saysLine(`^dying$`)
	s.await("6 live")
	s.signal(unix.SIGTERM)
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
}

// A program that logs elsewhere has closed its standard error.
func TestReplaceMute(t *testing.T) {
	t.Parallel()
	s, _ := replaceable(t)
	s.set("ready mute")
	for i := range 3 {
		if out, code := s.fdpass("restart"); code != 0 {
			t.Fatal(out)
		}
		s.await(fmt.Sprintf("%d live", i+2))
		if out, code := s.fdpass("restart", "--self"); code != 0 {
			t.Fatal(out)
		}
	}
	s.signal(unix.SIGTERM)
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
	if said := s.says.text(); said != "" {
		t.Errorf("all went well, and it says %s", said)
	}
}

// Commands that come while it is replaced are answered, and so are those who want the same.
func TestReplaceAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := replaceable(t)
	for range 5 {
		var all sync.WaitGroup
		for _, command := range [][]string{{"restart", "--self"}, {"restart"}, {"status"}, {"restart", "--self"}, {"restart", "--self"}} {
			all.Go(func() {
				if out, code := s.fdpass(command...); code != 0 {
					t.Errorf("%v: %d, %s", command, code, out)
				}
			})
		}
		all.Wait()
	}
	s.await("6 live")
}

// Where no generation serves because one after the other fails, the replacement waits until one does.
func TestReplaceBetweenDeaths(t *testing.T) {
	t.Parallel()
	s, _ := replaceable(t)
	s.set("exit=5 then silent then ready")
	_, _ = s.get("/die")
	s.saysLine(`^fdpass: generation 2 failed after \S+: exit status 5: bad configuration$`)
	s.await("2 failed, 3 starting")
	s.until("generation 3 knows what to do", func() bool { next, _ := os.ReadFile(s.mode); return string(next) == "ready" })
	answer := make(chan string)
	go func() {
		out, _ := s.fdpass("restart", "--self")
		answer <- out
	}()
	if err := unix.Kill(s.pid(3), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out := <-answer; out != "" {
		t.Error(out)
	}
	s.until("one is live", func() bool { return strings.HasSuffix(s.states(), " live") })
	if s.served() == 0 {
		t.Error("nobody serves")
	}
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.cmd.Process.Pid)); err != nil || !strings.Contains(string(args), "--state=") {
		t.Errorf("not replaced: %q, %v", args, err)
	}
}

// What is not a good fdpass does not get the service.
func TestReplaceRefused(t *testing.T) {
	t.Parallel()
	s, path := replaceable(t)
	pid := s.cmd.Process.Pid
	served, old, count := s.served(), exe(t, pid), len(fds(t, pid))
	ask := exec.Command(binary(t), "restart", "--self", "--control", s.control).Args
	for _, c := range []struct{ text, want string }{
		{"#!/bin/sh\nexit 0\n", "its trial run: exit status 0: it does not say why"},
		{"#!/bin/sh\necho 'no such flag'; exit 2\n", "its trial run: exit status 2: no such flag"},
		{"#!/bin/sh\nkill -9 $$\n", "its trial run: killed by SIGKILL"},
		{"not a program", "exec format error"},
	} {
		writeProgram(t, path, []byte(c.text))
		out, err := exec.Command(ask[0], ask[1:]...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "not replaced by "+path) || !strings.Contains(string(out), c.want) {
			t.Errorf("%q: %v, %s; want %s", c.text, err, out, c.want)
		}
		if exe(t, pid) != old || s.states() != "1 live" || s.served() != served {
			t.Errorf("%q: %s", c.text, s.states())
		}
	}
	s.until("no descriptor is left behind", func() bool { return len(fds(t, pid)) <= count })
	// And then a good one.
	copyOf(t, binary(t), path)
	if out, code := s.fdpass("restart", "--self"); code != 0 {
		t.Error(out)
	}
	if exe(t, pid) == old {
		t.Error("not replaced")
	}
}

// A trial run that hangs is one, whatever happens meanwhile, and does not outlive the service.
func TestReplaceHangs(t *testing.T) {
	t.Parallel()
	s, path := replaceable(t)
	file := filepath.Join(t.TempDir(), "pids")
	writeProgram(t, path, fmt.Appendf(nil, "#!/bin/sh\necho $$ >>%s\nexec sleep 600\n", file))
	answer := make(chan string)
	go func() {
		out, _ := s.fdpass("restart", "--self")
		answer <- out
	}()
	var pid int
	s.until("it is tried", func() bool {
		text, _ := os.ReadFile(file)
		n, _ := fmt.Sscanf(string(text), "%d\n", &pid)
		return n == 1
	})
	if out, code := s.fdpass("restart"); code != 0 {
		t.Error(out)
	}
	s.await("2 live")
	s.signal(unix.SIGTERM)
	if out := <-answer; !strings.Contains(out, "it is stopping") {
		t.Error(out)
	}
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
	s.until("the trial run has ended", func() bool { return gone(pid) || zombie(pid) })
	if text, err := os.ReadFile(file); err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("trial runs: %q, %v", text, err)
	}
}

// A replacement whose command line is another one sees that the state is not its own.
func TestReplaceOther(t *testing.T) {
	t.Parallel()
	s, path := replaceable(t)
	wrapper := fmt.Sprintf("#!/bin/sh\nshift; exec %s serve \"$1\" --name other -l tcp://127.0.0.1:1 -- x\n", binary(t))
	writeProgram(t, path, []byte(wrapper))
	out, code := s.fdpass("restart", "--self")
	if want := "tcp://127.0.0.1:0 is held, the command line says tcp://127.0.0.1:1"; code != 1 || !strings.Contains(out, want) {
		t.Errorf("%d, %s", code, out)
	}
}

// If fdpass ends in the middle of it, the program is told to stop: nobody would supervise it. SIGTERM can do that
// while the new program starts.
func TestReplaceEnds(t *testing.T) {
	t.Parallel()
	s, path := replaceable(t)
	writeProgram(t, path, fmt.Appendf(nil, "#!/bin/sh\ncase $2 in --state=*) kill -TERM $$;; esac\nexec %s \"$@\"\n", binary(t)))
	pid := s.pid(1)
	t.Cleanup(func() {
		if t.Failed() {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be alone
		}
	})
	held := s.hold()
	if out, code := s.fdpass("restart", "--self"); code != 1 || !strings.Contains(out, "it ended, or was replaced, before it answered") {
		t.Errorf("%d, %s", code, out)
	}
	if s.end() != -1 || s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", s.cmd.ProcessState)
	}
	if _, err := held(); err != nil {
		t.Errorf("the program was not asked, but killed: %v", err)
	}
	s.until("the program has ended", func() bool { return gone(pid) || zombie(pid) }) // an init reaps it
	s.until("it is said", func() bool {
		return strings.Contains(s.says.text(), "fdpass: serve ended while it was replaced: its program was told to stop")
	})
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// Signals and notifications that come while fdpass is replaced are not lost, and clients notice nothing.
func TestReplaceUnderLoad(t *testing.T) {
	t.Parallel()
	s, _ := replaceable(t)
	var stop atomic.Bool
	var lost, served atomic.Int64
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for !stop.Load() {
				if _, err := s.get("/"); err != nil {
					lost.Add(1)
					t.Error(err)
				}
				served.Add(1)
			}
		})
	}
	for i := range 10 {
		if out, code := s.fdpass("restart", "--self"); code != 0 {
			t.Fatal(out)
		}
		s.signal(unix.SIGHUP)
		s.await(fmt.Sprintf("%d live", i+2))
	}
	stop.Store(true)
	clients.Wait()
	if lost.Load() > 0 || served.Load() == 0 {
		t.Errorf("%d of %d requests were lost", lost.Load(), served.Load())
	}
	if st := s.generations(); len(st) != 1 || st[0].State != supervise.Live {
		t.Errorf("%+v", st)
	}
}
