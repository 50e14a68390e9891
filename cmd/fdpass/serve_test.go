//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/supervise"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/systemd"
)

// A service is an fdpass serve that runs.
type service struct {
	t       *testing.T
	cmd     *exec.Cmd
	control string
	addr    string // of the first socket
	mode    string // the file of goServer
	says    *lines
	ended   chan struct{}
}

// serveProgram runs goServer behind fdpass serve, on a port of its own.
func serveProgram(t *testing.T, mode string, flags ...string) *service {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mode")
	cmd := goServer.Command(t, file)
	s := newService(t, append(append([]string{"-l", "tcp://127.0.0.1:0"}, flags...), append([]string{"--"}, cmd.Args...)...)...)
	s.cmd.Env = cmd.Env
	s.mode = file
	s.set(mode)
	s.start()
	return s
}

// set tells the next generation of goServer what to do.
func (s *service) set(mode string) {
	s.t.Helper()
	if err := os.WriteFile(s.mode, []byte(mode), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// newService prepares an fdpass serve.
func newService(t *testing.T, args ...string) *service {
	t.Helper()
	s := &service{t: t, control: filepath.Join(testutil.ShortDir(t), "c"), ended: make(chan struct{})}
	s.cmd = exec.Command(binary(t), append([]string{"serve", "--control", s.control}, args...)...)
	s.cmd.Env = os.Environ()
	return s
}

func (s *service) start() {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.says = readLines(r)
	s.startWith(w)
}

// startWith starts it with w as standard error, and closes that.
func (s *service) startWith(w *os.File) {
	s.t.Helper()
	s.cmd.Env = append(s.cmd.Env, "GORACE=atexit_sleep_ms=0")
	s.cmd.Stderr = w
	err := s.cmd.Start()
	w.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	s.t.Cleanup(func() {
		groups := childrenOf(s.cmd.Process.Pid) // not by status: those may be pids of another namespace
		_ = s.cmd.Process.Kill()
		<-s.ended
		for _, g := range groups {
			_ = unix.Kill(-g, unix.SIGKILL)
			_ = unix.Kill(g, unix.SIGKILL)
		}
		if s.t.Failed() {
			s.t.Logf("%v said:\n%s", s.cmd.Args[1:], s.says.text())
		}
	})
	// The control socket listens before the first generation starts.
	s.until("it answers", func() bool { return s.ask("status") != nil || s.over() })
	if st := s.ask("status"); st != nil {
		s.addr = st.Status.Sockets[0].Bound
	}
}

func (s *service) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// until polls for what no event tells.
func (s *service) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("did not happen in 2 minutes: %s; generations %+v", what, s.generations())
		}
	}
}

// ask asks the service, nil if it does not answer.
func (s *service) ask(do string) *supervise.Answer {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := supervise.Dial(ctx, s.control, "")
	if err != nil {
		return nil
	}
	defer c.Close()
	a, err := supervise.Ask(ctx, c, supervise.Request{Do: do})
	if err != nil {
		return nil
	}
	return a
}

func (s *service) generations() []supervise.GenerationStatus {
	if a := s.ask("status"); a != nil {
		return a.Status.Generations
	}
	return nil
}

// states is such as "1 draining, 2 live".
func (s *service) states() string {
	var all []string
	for _, g := range s.generations() {
		all = append(all, fmt.Sprintf("%d %s", g.Generation, g.State))
	}
	return strings.Join(all, ", ")
}

func (s *service) await(states string) {
	s.t.Helper()
	s.until(states, func() bool { return s.states() == states })
}

// pid returns the pid of a generation.
func (s *service) pid(generation int) int {
	s.t.Helper()
	for _, g := range s.generations() {
		if g.Generation == generation {
			return g.PID
		}
	}
	s.t.Fatalf("generation %d is not there", generation)
	return 0
}

func (s *service) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for its exit status.
func (s *service) end() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(2 * time.Minute):
		s.t.Fatalf("has not ended after 2 minutes; generations %+v", s.generations())
	}
	return s.cmd.ProcessState.ExitCode()
}

// fdpass runs another command on this service.
func (s *service) fdpass(args ...string) (output string, code int) {
	s.t.Helper()
	return runFdpass(s.t, append(args, "--control", s.control)...)
}

func runFdpass(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// get asks the service over a connection of its own.
func (s *service) get(path string) (string, error) { return get("tcp", s.addr, path) }

// get makes one request over one connection, once: http.Client would try again.
func get(network, addr, path string) (string, error) {
	c, err := net.DialTimeout(network, addr, time.Minute)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", path); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", r.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// served returns the pid that answers.
func (s *service) served() int {
	s.t.Helper()
	body, err := s.get("/")
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// hold keeps a request going until the returned function ends it, which returns who answered.
func (s *service) hold() (finish func() (pid int, err error)) {
	s.t.Helper()
	finish, _ = s.holdBy()
	return finish
}

// holdIn is hold in a generation, which is live: the one before it may accept for a moment still.
func (s *service) holdIn(generation int) (finish func() (pid int, err error)) {
	s.t.Helper()
	live := s.pid(generation)
	s.until(fmt.Sprintf("generation %d has a request", generation), func() bool {
		end, pid := s.holdBy()
		if pid != live {
			_, _ = end()
			return false
		}
		finish = end
		return true
	})
	return finish
}

// holdBy is hold, and says who has the request.
func (s *service) holdBy() (finish func() (pid int, err error), by int) {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	fmt.Fprintf(c, "POST /hold HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 1\r\n\r\n")
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, nil) // it is in the handler's hands
	if err != nil {
		s.t.Fatal(err)
	}
	if by, err = strconv.Atoi(r.Header.Get("Pid")); err != nil {
		s.t.Fatal(err)
	}
	return func() (int, error) {
		if _, err := c.Write([]byte("x")); err != nil {
			return 0, err
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(string(body))
	}, by
}

// lines collects what a process says.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func readLines(r *os.File) *lines {
	l := new(lines)
	go func() {
		defer r.Close()
		_, _ = io.Copy(l, r)
	}()
	return l
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// saysLine waits for a line on standard error.
func (s *service) saysLine(pattern string) {
	s.t.Helper()
	p := regexp.MustCompile("(?m)" + pattern)
	s.until("it says "+pattern, func() bool { return p.MatchString(s.says.text()) })
}

func gone(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err != nil
}

func TestRestart(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "ready", "--ready", "notify", "--name", "web")
	s.await("1 live")
	first := s.served()
	if first != s.pid(1) {
		t.Errorf("pid %d answers, generation 1 is %d", first, s.pid(1))
	}
	// Three generations drain at once, and the next restart does not wait for them.
	var finish []func() (int, error)
	for i := range 3 {
		finish = append(finish, s.holdIn(i+1))
		if out, code := s.fdpass("restart"); out != "" || code != 0 {
			t.Fatalf("restart says %q and ends with %d", out, code)
		}
	}
	s.await("1 draining, 2 draining, 3 draining, 4 live")
	out, code := s.fdpass("status")
	want := fmt.Sprintf(`^web: fdpass \S+, pid %d, up \S+
socket 3  tcp://127.0.0.1:0 \(%s\)
GENERATION  PID +STATE     UP +
1 +%d +draining  \S+ +at your service
2 .*
3 .*
4 +\d+ +live      \S+ +at your service
$`, s.cmd.Process.Pid, regexp.QuoteMeta(s.addr), first)
	if !regexp.MustCompile(want).MatchString(out) || code != 0 {
		t.Errorf("status: %d\n%s\nwant\n%s", code, out, want)
	}
	out, code = s.fdpass("status", "--json")
	var st supervise.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 || len(st.Generations) != 4 || st.Generations[3].State != supervise.Live ||
		st.Sockets[0].Bound != s.addr || st.Sockets[0].FD != 3 || st.PID != s.cmd.Process.Pid || st.Generations[0].Says != "at your service" {
		t.Errorf("status --json: %v, %d\n%s", err, code, out)
	}
	for i, f := range finish {
		if pid, err := f(); err != nil || (pid == first) != (i == 0) {
			t.Errorf("a request of generation %d was answered by %d, %v", i+1, pid, err)
		}
	}
	s.await("4 live")

	// Two at once are one after the other, and SIGHUP is one as well.
	s.signal(unix.SIGHUP)
	s.await("5 live")
	var done sync.WaitGroup
	for range 3 {
		done.Go(func() {
			if out, code := s.fdpass("restart"); code != 0 {
				t.Error(out)
			}
		})
	}
	done.Wait()
	s.until("all but one have ended", func() bool { return len(s.generations()) == 1 })
	if g := s.generations()[0]; g.Generation < 6 || g.Generation > 8 {
		t.Errorf("three restarts led to generation %d", g.Generation)
	}
	s.signal(unix.SIGTERM)
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
	if said := s.says.text(); said != "" {
		t.Errorf("all went well, and it says %s", said)
	}
	if _, err := os.Lstat(s.control); !os.IsNotExist(err) {
		t.Errorf("the control socket is still there: %v", err)
	}
}

func TestRollback(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "ready", "--ready", "notify", "--timeout", "5m")
	s.await("1 live")
	first := s.served()

	s.set("exit=3")
	out, code := s.fdpass("restart")
	if want := `^fdpass: generation 2 failed after \S+: exit status 3: bad configuration; generation 1 serves on\n$`; code != 1 || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("restart ends with %d and says %s", code, out)
	}
	s.saysLine(`^fdpass: generation 2 failed after \S+: exit status 3: bad configuration; generation 1 serves on$`)
	s.saysLine(`^bad configuration$`) // and what it said itself, whole
	s.await("1 live, 2 failed")
	if out, _ := s.fdpass("status"); !strings.Contains(out, "exit status 3: bad configuration") {
		t.Errorf("status does not say why:\n%s", out)
	}
	s.set("exit=0")
	if out, code := s.fdpass("restart"); code != 1 || !strings.Contains(out, "exit status 0, it must stay in the foreground") {
		t.Errorf("restart ends with %d and says %s", code, out)
	}
	// One that is killed from outside, before it is ready.
	s.set("silent")
	answer := make(chan string)
	go func() {
		out, _ := s.fdpass("restart")
		answer <- out
	}()
	s.await("1 live, 3 failed, 4 starting")
	if err := unix.Kill(s.pid(4), unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if out := <-answer; !strings.Contains(out, "killed by SIGKILL") {
		t.Error(out)
	}
	if pid := s.served(); pid != first {
		t.Errorf("pid %d serves, the old one was %d", pid, first)
	}
	// None of it leaves anything behind.
	fdpassPID := s.cmd.Process.Pid
	s.set("exit=3")
	s.until("all is quiet", func() bool { return len(childrenOf(fdpassPID)) == 1 })
	count := len(fds(t, fdpassPID))
	for range 5 {
		s.fdpass("restart")
	}
	s.until("no descriptor is left behind", func() bool { return len(fds(t, fdpassPID)) <= count })
	// And a good one, after all that.
	s.set("ready")
	if out, code := s.fdpass("restart"); code != 0 {
		t.Error(out)
	}
	s.await("10 live")
}

// What restart says of a program that is not there is what the log says.
func TestProgramIsGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "program")
	writeProgram(t, path, []byte("#!/bin/sh\nexec sleep 600\n"))
	s := newService(t, "-l", "tcp://127.0.0.1:0", "--ready", "0.05", "--", path)
	s.start()
	s.await("1 live")
	s.until("the program runs", func() bool { // which it need not yet, to be live
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid(1)))
		return err == nil && string(args) == "sleep\x00600\x00"
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	out, code := s.fdpass("restart")
	want := fmt.Sprintf("fdpass: generation 2: exec: %q: stat %s: no such file or directory; generation 1 serves on\n", path, path)
	if out != want || code != 1 {
		t.Errorf("%d, %s; want %s", code, out, want)
	}
	s.saysLine("^" + regexp.QuoteMeta(strings.TrimSpace(want)) + "$")
	s.await("1 live, 2 failed")
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	// The first generation has no more time than the others. Where it needs more, all get it.
	var s *service
	limit := 3 * time.Second
	for ; ; limit *= 2 {
		s = serveProgram(t, "ready", "--ready", "notify", "--timeout", limit.String())
		s.until("1 live", func() bool { return s.states() == "1 live" || s.over() })
		if !s.over() {
			break
		}
		s.saysLine(`^fdpass: generation 1 failed after \S+: no READY=1 within ` + limit.String() + `$`)
	}
	s.set("silent deaf")
	s.signal(unix.SIGHUP)
	s.await("1 live, 2 starting")
	// The client has less patience than the service, which goes on: with a third one, if it has heard him.
	if out, code := s.fdpass("restart", "--timeout", "50ms"); code != exitTimeout || !strings.Contains(out, "no answer within 50ms") {
		t.Errorf("%d, %s", code, out)
	}
	s.saysLine(`^fdpass: generation 2 failed after \S+: no READY=1 within ` + limit.String() + `; generation 1 serves on$`)
	s.until("nothing starts", func() bool { return regexp.MustCompile(`^1 live, \d failed$`).MatchString(s.states()) })
}

func TestDrainLimit(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "ready deaf", "--ready", "notify", "--drain", "300ms")
	s.await("1 live")
	old := s.pid(1)
	s.set("ready")
	if out, code := s.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	s.saysLine(`^fdpass: generation 1 was still there 300ms after it was told to stop: killed$`)
	s.await("2 live")
	if !gone(old) {
		t.Error("it was not killed, or not reaped")
	}
}

// fullPipe returns a pipe, in blocking mode, into which nothing more can be written.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(pipe[1], make([]byte, 1<<16)); err != nil {
			break // it is full
		}
	}
	if err := unix.SetNonblock(pipe[1], false); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(pipe[0]), "read end"), os.NewFile(uintptr(pipe[1]), "write end")
}

// Nobody reads the standard error any more, a terminal that is stopped for example: that holds up nothing else.
func TestStderrStuck(t *testing.T) {
	t.Parallel()
	r, w := fullPipe(t)
	defer r.Close()
	file := filepath.Join(t.TempDir(), "mode")
	cmd := goServer.Command(t, file)
	s := newService(t, append([]string{"-l", "tcp://127.0.0.1:0", "--ready", "notify", "--"}, cmd.Args...)...)
	s.cmd.Env, s.mode, s.says = cmd.Env, file, new(lines)
	s.set("ready die=7")
	s.startWith(w)
	s.await("1 live")
	_, _ = s.get("/die") // which it says, and so does fdpass
	s.await("2 live")
	s.set("exit=3")
	if out, code := s.fdpass("restart"); code != 1 || !strings.Contains(out, "generation 3 failed") {
		t.Errorf("%d, %s", code, out)
	}
	s.signal(unix.SIGTERM)
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
}

// What has happened while fdpass was stopped comes before its timers, which were over meanwhile.
func TestStopped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		flags       []string
		first, next string
		meanwhile   func(t *testing.T, pid int)
		code        int
		states      string
	}{
		{"death", []string{"--ready"}, "", "", func(t *testing.T, pid int) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			testutil.Eventually(t, "it has ended", func() bool { return zombie(pid) })
		}, 1, "1 live, 2 failed"},
		{"ready", []string{"--ready", "notify", "--timeout"}, "ready", "silent", func(t *testing.T, pid int) {
			name := notifySocketIn(t, pid)
			// The shell, in whose name it speaks, ends; it is believed as this user's.
			notify := exec.Command("sh", "-c", `"$0" notify --ready --no-block; exit $?`, binary(t))
			notify.Env = append(os.Environ(), "NOTIFY_SOCKET="+name)
			if out, err := notify.CombinedOutput(); err != nil {
				t.Fatalf("%v, %s", err, out)
			}
		}, 0, "2 live"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for limit := time.Second; ; limit *= 2 { // until it is stopped in time
				s := serveProgram(t, c.first, append(slices.Clone(c.flags), limit.String())...)
				s.until("1 live", func() bool { return s.states() == "1 live" || s.over() })
				if s.over() {
					s.saysLine(`no READY=1 within`)
					continue
				}
				s.set(c.next)
				begun := time.Now()
				answer := make(chan int, 1)
				go func() {
					_, code := s.fdpass("restart")
					answer <- code
				}()
				var states string
				s.until("generation 2 starts", func() bool { states = s.states(); return strings.Contains(states, "2 ") })
				if states != "1 live, 2 starting" {
					<-answer
					continue
				}
				pid := s.pid(2)
				testutil.Suspend(t, s.cmd.Process.Pid)
				if time.Since(begun) >= limit {
					s.signal(unix.SIGCONT)
					<-answer
					continue
				}
				c.meanwhile(t, pid)
				s.until("the time is over", func() bool { return time.Since(begun) > limit+500*time.Millisecond })
				s.signal(unix.SIGCONT)
				if code := <-answer; code != c.code {
					t.Errorf("restart ends with %d, want %d", code, c.code)
				}
				s.await(c.states)
				return
			}
		})
	}
}

// notifySocketIn returns the NOTIFY_SOCKET of a process.
func notifySocketIn(t *testing.T, pid int) (name string) {
	t.Helper()
	testutil.Eventually(t, "it has its environment", func() bool { // in the middle of exec(2) it has none
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		_, name, _ = strings.Cut("\x00"+string(env), "\x00NOTIFY_SOCKET=")
		name, _, _ = strings.Cut(name, "\x00")
		return err == nil && name != ""
	})
	return name
}

// A program that ends by itself is started again. A client that connects meanwhile waits.
func TestDeath(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "die=7", "--ready", "0.05")
	for i, inARow := 1, 0; ; i++ {
		s.await(fmt.Sprintf("%d live", i))
		// The answer to the first is the end of the connection, and the second waits for the next one.
		if _, err := s.get("/die"); err == nil {
			t.Error("answered by one that died")
		}
		s.saysLine(fmt.Sprintf(`^fdpass: generation %d \(pid \d+\) ended by itself after \S+: exit status 7: dying$`, i))
		if inARow++; !regexp.MustCompile(fmt.Sprintf(`generation %d .* after \d\.\ds: exit`, i)).MatchString(s.says.text()) {
			inARow = 1 // it had run for ten seconds: that is steady
		}
		if inARow == 6 {
			break
		}
		if pid := s.served(); pid == 0 {
			t.Error("no pid")
		}
	}
	if code := s.end(); code != 7 {
		t.Errorf("ends with %d", code)
	}
	s.saysLine(`^fdpass: it ended 6 times in a row: giving up$`)
}

func TestFirstFails(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "exit=4", "--ready", "1h")
	if code := s.end(); code != 4 {
		t.Errorf("ends with %d", code)
	}
	s.saysLine(`^fdpass: generation 1 failed after \S+: exit status 4: bad configuration$`)
	if _, err := net.Dial("unix", s.control); err == nil {
		t.Error("the control socket is still served")
	}
}

// How the end of the service is told.
func TestStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, mode string
		signals    []syscall.Signal
		flags      []string
		code       int
	}{
		{"TERM", "", []syscall.Signal{unix.SIGTERM}, nil, 0},
		{"INT", "", []syscall.Signal{unix.SIGINT}, nil, 128 + 2},
		{"QUIT", "", []syscall.Signal{unix.SIGQUIT}, nil, 2}, // Go's
		{"the signal of --stop-signal", "", []syscall.Signal{unix.SIGTERM}, []string{"--stop-signal", "INT"}, 128 + 2},
		{"once more", "linger", []syscall.Signal{unix.SIGTERM, unix.SIGINT}, nil, 0},
		{"deaf, killed", "deaf", []syscall.Signal{unix.SIGTERM}, []string{"--drain", "200ms"}, 128 + 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serveProgram(t, "ready "+c.mode, append(c.flags, "--ready", "notify")...)
			s.await("1 live")
			for i, sig := range c.signals {
				if i > 0 {
					// The program has closed its listener: it is beyond the first signal.
					pid := s.pid(1)
					s.until("it lingers", func() bool { return !listens(pid) })
				}
				s.signal(sig)
			}
			if code := s.end(); code != c.code {
				t.Errorf("ends with %d, want %d", code, c.code)
			}
		})
	}
}

// listens reports whether a process has a socket as descriptor 3: program closes it when it is told to stop.
func listens(pid int) bool {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	for _, e := range entries {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		if strings.HasPrefix(link, "socket:") {
			return true
		}
	}
	return false
}

// All generations end with the service, and one that was told to stop is not told twice.
func TestStopAll(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "ready", "--ready", "notify")
	s.await("1 live")
	old := s.hold()
	if out, code := s.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	s.await("1 draining, 2 live")
	young := s.holdIn(2)
	s.signal(unix.SIGTERM)
	s.await("1 draining, 2 draining")
	if out, code := s.fdpass("restart"); code != 1 || !strings.Contains(out, "it is stopping") {
		t.Errorf("%d, %s", code, out)
	}
	for _, f := range []func() (int, error){old, young} {
		if _, err := f(); err != nil {
			t.Error(err)
		}
	}
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
}

// READY=1 counts if a process of the generation says it, and BARRIER=1 is answered.
func TestServeNotify(t *testing.T) {
	t.Parallel()
	testutil.NeedProgram(t, "systemd-notify")
	t.Run("by a child", func(t *testing.T) {
		t.Parallel()
		// systemd-notify waits until its barrier was closed.
		s := newService(t, "-l", "tcp://127.0.0.1:0", "--ready", "notify", "--", "sh", "-c",
			"systemd-notify --ready --status='from a child' && exec sleep 600")
		s.start()
		s.await("1 live")
		if g := s.generations()[0]; g.Says != "from a child" {
			t.Errorf("%+v", g)
		}
	})
	t.Run("by a stranger", func(t *testing.T) {
		t.Parallel()
		s := serveProgram(t, "silent", "--ready", "notify")
		s.await("1 starting")
		name := notifySocketIn(t, s.pid(1))
		if !strings.HasPrefix(name, "@") {
			t.Fatalf("NOTIFY_SOCKET is %q", name)
		}
		hears(t, name, "READY=1\nSTATUS=forged")
		if g := s.generations()[0]; g.State != supervise.Starting || g.Says != "" {
			t.Errorf("a stranger's word counts: %+v", g)
		}
	})
}

// hears returns when a service that listens at name has handled this, and everything before it: there is a descriptor
// with it, which must not stay in fdpass.
func hears(t *testing.T, name, state string) {
	t.Helper()
	u, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	c, err := scm.NewConn(u)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = c.Send([]byte(state), w)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
}

// fdpass tells its own service manager, and the program does not.
func TestServeUnderManager(t *testing.T) {
	t.Parallel()
	manager, err := systemd.ListenNotify(filepath.Join(testutil.ShortDir(t), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	heard := func(want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		n, err := manager.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		for _, w := range want {
			if !regexp.MustCompile("(?m)^" + w + "$").MatchString(string(n.State)) {
				t.Errorf("heard %q, want %s", n.State, w)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "mode")
	cmd := goServer.Command(t, file)
	s := newService(t, append([]string{"-l", "tcp://127.0.0.1:0", "--ready", "notify", "--"}, cmd.Args...)...)
	s.cmd.Env, s.mode = append(cmd.Env, "NOTIFY_SOCKET="+manager.Addr()), file
	s.set("ready")
	s.start()
	heard("READY=1", "STATUS=generation 1 serves")
	s.signal(unix.SIGHUP)
	heard("RELOADING=1", `MONOTONIC_USEC=\d+`, "STATUS=generation 2 starts")
	heard("READY=1", "STATUS=generation 2 serves")
	s.set("exit=3")
	s.signal(unix.SIGHUP)
	heard("RELOADING=1", "STATUS=generation 3 starts")
	heard("READY=1", "STATUS=generation 3 failed after .*: exit status 3: bad configuration; generation 2 serves on")
	s.await("2 live, 3 failed")
	s.signal(unix.SIGTERM)
	heard("STOPPING=1")
	if code := s.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
}

// Nobody but the same user and root controls a service.
func TestControlStranger(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t)
	s := serveProgram(t, "", "--ready", "0.05")
	s.await("1 live")
	st, err := os.Lstat(s.control)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	// Even if the mode allowed it.
	name := fmt.Sprintf("@fdpass-test-%d-stranger", os.Getpid())
	abstract := newService(t, "-l", "tcp://127.0.0.1:0", "--", "sleep", "600")
	abstract.cmd.Args = slices.Replace(abstract.cmd.Args, 3, 4, name)
	abstract.control = name
	abstract.start()
	cmd := exec.Command(binary(t), "restart", "--control", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("a stranger restarts it: %s", out)
	}
	c, err := net.Dial("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if g := abstract.generations(); len(g) != 1 || g[0].Generation != 1 {
		t.Errorf("%+v", g)
	}
}

// As pid 1 of a container it reaps what others leave behind, and ends with the program's status.
func TestPID1(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t)
	unshare := testutil.NeedProgram(t, "unshare")
	if out, err := exec.Command(unshare, "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("no pid namespace for this root: %v: %s", err, out)
	}
	s := serveProgram(t, "orphan ready", "--ready", "notify") // only for its arguments
	s.await("1 live")
	inner := newService(t)
	inner.mode = s.mode
	args := append([]string{"serve", "--control", inner.control}, s.cmd.Args[4:]...)
	inner.cmd = exec.Command(unshare, append([]string{"--pid", "--fork", "--kill-child", "--mount-proc", binary(t)}, args...)...)
	inner.cmd.Env = s.cmd.Env
	inner.start()
	inner.await("1 live")
	if out, code := inner.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	inner.await("2 live")
	a := inner.ask("status")
	if a.Status.PID != 1 {
		t.Errorf("it is pid %d", a.Status.PID)
	}
	// The orphans have ended by now or soon will, and leave no zombie: the only children are the program.
	root := childOf(inner.cmd.Process.Pid)
	inner.until("only the program is left", func() bool { return len(childrenOf(root)) == 1 })
	if pid, err := get("tcp", inner.addr, "/"); err != nil || pid != strconv.Itoa(inner.pid(2)) {
		t.Errorf("%s answers, %v", pid, err)
	}
	if err := unix.Kill(root, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := inner.end(); code != 0 {
		t.Errorf("ends with %d", code)
	}
}

func childOf(pid int) int {
	if all := childrenOf(pid); len(all) == 1 {
		return all[0]
	}
	return 0
}

func childrenOf(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		text, _ := os.ReadFile(t)
		for _, f := range strings.Fields(string(text)) {
			n, _ := strconv.Atoi(f)
			all = append(all, n)
		}
	}
	return all
}

// The mode of a socket is that of its birth: fdpass never changes it, as it would for all generations.
func TestMode(t *testing.T) {
	t.Parallel()
	for _, nonblock := range []bool{false, true} {
		s := newService(t, fmt.Sprintf("--nonblock=%v", nonblock), "-l", "tcp://127.0.0.1:0", "--ready", "0", "--", "sleep", "600")
		s.start()
		s.await("1 live")
		check := func() {
			t.Helper()
			program := s.generations()[0].PID
			// With --ready 0 it is live before it is the program.
			s.until("the program runs", func() bool { return exe(t, program) != exe(t, s.cmd.Process.Pid) })
			socket := fds(t, program)["3"]
			for _, pid := range []int{s.cmd.Process.Pid, program} {
				found := 0
				for fd, link := range fds(t, pid) {
					if link != socket {
						continue
					}
					if found++; flagNonblock(t, pid, fd) != nonblock {
						t.Errorf("descriptor %s of %d: nonblocking %v, want %v", fd, pid, !nonblock, nonblock)
					}
				}
				if found != 1 || !strings.HasPrefix(socket, "socket:") {
					t.Errorf("%d has %d of %s", pid, found, socket)
				}
			}
		}
		check()
		if out, code := s.fdpass("restart"); code != 0 {
			t.Fatal(out)
		}
		s.await("2 live")
		if out, code := s.fdpass("restart", "--self"); code != 0 {
			t.Fatal(out)
		}
		check()
	}
}

// flagNonblock reports whether a descriptor of another process is.
func flagNonblock(t *testing.T, pid int, fd string) bool {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(info), "\n") {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32)
			if err != nil {
				t.Fatal(err)
			}
			return flags&unix.O_NONBLOCK != 0
		}
	}
	t.Fatalf("no flags in %q", info)
	return false
}

// With a full descriptor table a restart fails and says why, and nothing that is held is dropped.
func TestFullTable(t *testing.T) {
	t.Parallel()
	s := serveProgram(t, "ready", "--ready", "notify")
	s.await("1 live")
	pid := s.cmd.Process.Pid
	served := s.served()
	const limit = 40
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	s.until("the table is full", func() bool {
		if len(held) == limit { // they are on their way
			entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			return len(entries) >= limit
		}
		c, err := net.Dial("unix", s.control)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		held = append(held, c)
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		return len(entries) >= limit
	})
	s.signal(unix.SIGHUP)
	s.saysLine(`^fdpass: generation 2: .*too many open files; generation 1 serves on$`)
	s.signal(unix.SIGUSR2)
	s.saysLine(`^fdpass: not replaced by .*: .*too many open files$`)
	if pid := s.served(); pid != served {
		t.Errorf("%d answers, it was %d", pid, served)
	}
	for _, c := range held {
		c.Close()
	}
	s.until("there is room again", func() bool { return len(fds(t, pid)) < limit/2 })
	if out, code := s.fdpass("restart"); code != 0 {
		t.Error(out)
	}
	s.await("3 live")
}

// A signal that comes while the sockets are opened leaves no path behind.
func TestServeEarlySignal(t *testing.T) {
	t.Parallel()
	first, second := filepath.Join(testutil.ShortDir(t), "s"), filepath.Join(testutil.ShortDir(t), "s")
	lock, err := os.Open(filepath.Dir(second)) // for which it waits
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "serve", "--control", "none", "-l", first, "-l", second, "--", "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "the first path is there", func() bool {
		_, err := os.Lstat(first)
		return err == nil
	})
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGTERM} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	lock.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+int(unix.SIGTERM) {
		t.Errorf("%v", cmd.ProcessState)
	}
	for _, path := range []string{first, second} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

// A path stays over restarts, and is removed in the end.
func TestServePath(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testutil.ShortDir(t), "web.sock")
	s := serveProgram(t, "ready", "--ready", "notify", "-l", "unix:"+path, "--mode", "0660")
	s.await("1 live")
	before, err := os.Lstat(path)
	if err != nil || before.Mode().Perm() != 0o660 {
		t.Fatalf("%v, %v", before, err)
	}
	if out, code := s.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	s.await("2 live")
	after, err := os.Lstat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the path is another one after a restart: %v", err)
	}
	// A second service cannot have it.
	if out, code := runFdpass(t, "serve", "--control", "none", "-l", "unix:"+path, "--", "sleep", "600"); code != 1 ||
		!strings.Contains(out, "a process serves this path: address already in use") {
		t.Errorf("%d, %s", code, out)
	}
	// One whose path somebody removes says so.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if out, code := s.fdpass("restart"); code != 0 {
		t.Fatal(out)
	}
	s.saysLine(`^fdpass: unix:` + path + `: the path was removed or replaced, nobody can connect to it any more$`)
	if out, _ := s.fdpass("status"); !strings.Contains(out, "MISSING") {
		t.Error(out)
	}
	s.signal(unix.SIGTERM)
	s.end()
}
