//go:build linux

package handoff

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// aService is the program of the tests of Service: an HTTP server on a TCP and a Unix listener.
var aService = testutil.NewHelper("service", func([]string) error {
	var c serviceConfig
	if err := json.Unmarshal([]byte(os.Getenv("SERVICE")), &c); err != nil {
		return err
	}
	testutil.Helper("service").Inherit() // for Upgrade
	c.injectFault()
	say := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	tell := func(l line) {
		mu.Lock()
		defer mu.Unlock()
		l.PID = os.Getpid()
		_ = say.Encode(l)
	}
	if c.Strikes != "" {
		if err := awaitStrikes(c.Strikes, tell); err != nil {
			return err
		}
	}
	ctx := context.Background()
	var logger *slog.Logger
	if c.Log {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var svc *Service
	svc, err := Start(ctx, Options{
		Logger: logger,
		Name:   "test", Socket: c.Socket, Force: c.Force,
		UpgradeSignals: []os.Signal{syscall.SIGHUP},
		Final: func(context.Context) (Final, error) {
			return Final{State: fmt.Appendf(nil, "state of %d", os.Getpid())}, nil
		},
		Deadlines: c.Deadlines, Policy: c.policy(),
		Events: func(e Event) {
			l := line{Event: string(e.Kind), Name: e.Name}
			if e.Err != nil {
				l.Error = e.Err.Error()
			}
			tell(l)
		},
	})
	if err != nil {
		tell(line{Event: "refused", Name: sentinelsOf(err), Error: err.Error()})
		return err
	}
	ln, err := svc.Listen("tcp", c.TCP)
	if err != nil {
		return err
	}
	if c.Extra != "" {
		if err := serveExtra(svc, c.Extra); err != nil {
			return err
		}
	}
	if c.Echo != "" {
		if err := serveEcho(svc, c.Echo); err != nil {
			return err
		}
	}
	local, err := svc.Listen("unix", c.Unix)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			tell(line{Event: "slow"})
			<-svc.Stopping()
			time.Sleep(c.Slow) // a request that takes its time, whoever follows
		}
		if r.URL.Path == "/goroutines" {
			debug.FreeOSMemory()
			fmt.Fprint(w, runtime.NumGoroutine())
			return
		}
		fmt.Fprintf(w, "%d %d %s", svc.Generation(), os.Getpid(), r.URL.Path)
	})}
	go svc.Serve(srv, ln)
	go svc.Serve(srv, local)
	if c.Rehearse {
		tell(line{Event: "rehearsing"})
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	if c.FailBeforeReady {
		return errors.New("the configuration is bad")
	}
	if err := svc.Ready(ctx); err != nil {
		return err
	}
	final, _ := svc.Final()
	tell(line{Event: "ready", Name: os.Getenv("VERSION"), Addr: ln.Addr().String(), State: string(final.State)})
	<-svc.Stopping()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = svc.Drain(ctx)
	tell(line{Event: "end", Error: fmt.Sprint(err)})
	return err
})

// serveExtra serves sockets on which every client is told the pid.
func serveExtra(svc *Service, addrs string) error {
	path, addr, _ := strings.Cut(addrs, ",")
	ln, err := svc.Listen("unix", path)
	if err != nil {
		return err
	}
	packets, err := svc.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, os.Getpid())
			c.Close()
		}
	}()
	go func() {
		p := make([]byte, 100)
		for {
			_, from, err := packets.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(fmt.Append(nil, os.Getpid()), from)
		}
	}()
	return nil
}

type serviceConfig struct {
	Socket, Unix    string
	TCP             string
	Deadlines       Deadlines
	Force           bool
	FailBeforeReady bool
	Rehearse        bool          // until standard input ends
	Log             bool          // to standard error
	Extra           string        // a Unix path and a UDP address with a comma between: sockets that only some generations want
	Slow            time.Duration // how long /slow goes on when the generation stops
	Users           []uint32      // Options.Policy, if there are any
	Echo            string        // a UDP address at which every datagram is answered, for the soak
	Strikes         string        // a file that tells of a strike, for the soak

	// A fault: at Step of Role, before the task Before ("" is on reaching the step), Do: kill, stop or fill.
	Role, Before, Do string
	Step             step
	Generation       uint64 // only of this one; 0 is any
}

func (c serviceConfig) policy() *credentials.Policy {
	if len(c.Users) == 0 {
		return nil
	}
	p := credentials.UID(c.Users...)
	return &p
}

// sentinelsOf says which errors err matches that tell of a refusal.
func sentinelsOf(err error) string {
	var all []string
	for name, s := range map[string]error{
		"permission": fs.ErrPermission, "denied": credentials.ErrDenied, "no identity": credentials.ErrNoIdentity, "kept": ErrKept,
	} {
		if errors.Is(err, s) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (c serviceConfig) injectFault() {
	if _, child := os.LookupEnv(childVariable); c.Do == "" || child && c.Role == "predecessor" {
		return // what strikes the first generation must not strike its successors
	}
	var once atomic.Bool
	probe = func(role string, at step, before string) {
		if role != c.Role || at != c.Step || before != c.Before || once.Swap(true) {
			return
		}
		strike(c.Do)
	}
}

// strike does to this process what a test wants.
func strike(what string) {
	switch what {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "stop":
		fmt.Printf("{\"Event\":\"stopping\",\"PID\":%d}\n", os.Getpid())
		// This thread, or another would have to run before anything stops.
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
	case "fill":
		// For a while: one that stays full cannot accept anything from anybody.
		var fill []int
		for {
			fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				break
			}
			fill = append(fill, fd)
		}
		time.AfterFunc(400*time.Millisecond, func() {
			sysfd.CloseAll(fill)
			fmt.Printf("{\"Event\":\"emptied\",\"PID\":%d}\n", os.Getpid())
		})
	}
}

// line is what a service says on standard output.
type line struct {
	Event, Error, Addr, State, Name string
	PID, Dropped                    int
	Time                            int64
}

// running is a generation of the test's service.
type running struct {
	*exec.Cmd
	t     testing.TB
	lines chan line
	ended chan error

	complaints *strings.Builder // complete when ended
	failed     []string         // what those said that were started before it: see launchUntilReady
}

// launch starts a generation.
func launch(t testing.TB, c serviceConfig) *running {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return launchCommand(t, aService.Command(t), "SERVICE="+string(b))
}

func launchHelper(t testing.TB, h testutil.Helper, args ...string) *running {
	t.Helper()
	return launchCommand(t, h.Command(t, args...))
}

func launchCommand(t testing.TB, cmd *exec.Cmd, env ...string) *running {
	t.Helper()
	cmd.Env = append(cmd.Env, env...)
	return launchBy(t, cmd, cmd.Start)
}

func launchBy(t testing.TB, cmd *exec.Cmd, start func() error) *running {
	t.Helper()
	complaints := new(strings.Builder)
	cmd.Stderr = complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var pipe string
	if err := sysfd.Control(out.(*os.File), func(fd int) (err error) {
		pipe, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	r := &running{Cmd: cmd, t: t, lines: make(chan line, 1000), ended: make(chan error, 1), complaints: complaints}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var l line
			if json.Unmarshal(lines.Bytes(), &l) == nil {
				r.lines <- l
			}
		}
		err := cmd.Wait()
		close(r.lines)
		r.ended <- err
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			killWriters(pipe)
		}
		<-r.ended
	})
	return r
}

// killWriters kills whose standard output is a pipe of ours: the successors that a test leaves when it fails.
func killWriters(pipe string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/1")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == pipe {
			if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// await returns the first line with one of the events, of any process that writes there.
func (r *running) await(events ...string) line {
	r.t.Helper()
	var seen []string
	timeout := time.After(time.Minute)
	for {
		select {
		case l, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("the service ended without any of %q; it said %q and %q", events, seen, r.complaints)
			}
			for _, e := range events {
				if l.Event == e {
					return l
				}
			}
			seen = append(seen, l.Event+" "+l.Error)
		case <-timeout:
			r.t.Fatalf("the service does not say any of %q; it said %q", events, seen)
		}
	}
}

// awaitEach returns the first line with each of the events, which may come in any order.
func (r *running) awaitEach(events ...string) []line {
	r.t.Helper()
	lines := make([]line, len(events))
	for rest := slices.Clone(events); len(rest) > 0; {
		l := r.await(rest...)
		lines[slices.Index(events, l.Event)] = l
		rest = slices.DeleteFunc(rest, func(e string) bool { return e == l.Event })
	}
	return lines
}

func config(t testing.TB) serviceConfig {
	dir := testutil.ShortDir(t)
	return serviceConfig{
		Socket: filepath.Join(dir, "control"), Unix: filepath.Join(dir, "web"), TCP: "127.0.0.1:0",
		Deadlines: Deadlines{Probation: 50 * time.Millisecond, MaxPause: patient},
	}
}

// ask makes one request on a new connection.
func ask(network, address string) (answer string, err error) { return askFor(network, address, "/x") }

func askFor(network, address, path string) (answer string, err error) {
	c, err := net.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patient))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// mustServe checks who answers on both listeners.
func mustServe(t testing.TB, c serviceConfig, addr string, pid int) {
	t.Helper()
	for network, address := range map[string]string{"tcp": addr, "unix": c.Unix} {
		answer, err := ask(network, address)
		if f := strings.Fields(answer); err != nil || len(f) != 3 || f[1] != fmt.Sprint(pid) {
			t.Errorf("%s: %q, %v; want pid %d", network, answer, err, pid)
		}
	}
}

func TestServiceTakeover(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	mustServe(t, c, ready.Addr, ready.PID)
	for range 3 {
		second := launch(t, c)
		if paused := first.await(string(EventPaused)); paused.PID != ready.PID {
			t.Errorf("%+v", paused)
		}
		next := second.await("ready")
		if next.Addr != ready.Addr || next.State != fmt.Sprintf("state of %d", ready.PID) {
			t.Errorf("%+v after %+v", next, ready)
		}
		mustServe(t, c, ready.Addr, next.PID)
		if end := first.await("end"); end.Error != "<nil>" {
			t.Errorf("the predecessor's drain: %s", end.Error)
		}
		first, ready = second, next
	}
	_ = first.Process.Signal(syscall.SIGTERM)
	if end := first.await("end"); end.Error != "<nil>" {
		t.Errorf("the drain: %s", end.Error)
	}
	for _, path := range []string{c.Socket, c.Unix} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func TestServiceUpgrade(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	for range 3 {
		_ = syscall.Kill(ready.PID, syscall.SIGHUP)
		next := first.await("ready") // the child inherits standard output
		if next.Addr != ready.Addr || next.State != fmt.Sprintf("state of %d", ready.PID) {
			t.Errorf("%+v after %+v", next, ready)
		}
		mustServe(t, c, ready.Addr, next.PID)
		ready = next
	}
	_ = syscall.Kill(ready.PID, syscall.SIGTERM)
	first.await("end")
}

// After a deploy the successor is what lies at the program's path now, not the file that this process was made of.
func TestServiceDeploy(t *testing.T) {
	c := config(t)
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := aService.Command(t)
	path := filepath.Join(t.TempDir(), "program")
	binary, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	next := "#!/bin/sh\nexport VERSION=new\nexec '" + cmd.Path + "' \"$@\"\n"
	cmd.Path, cmd.Args[0] = path, path
	first := launchCommand(t, cmd, "SERVICE="+string(b))
	ready := first.await("ready")
	if ready.Name != "" {
		t.Fatalf("%+v", ready)
	}
	if err := os.WriteFile(path+".next", []byte(next), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(ready.PID, syscall.SIGHUP)
	l := first.await("ready")
	if l.Name != "new" {
		t.Errorf("%+v: the old program was executed", l)
	}
	mustServe(t, c, ready.Addr, l.PID)
	_ = syscall.Kill(l.PID, syscall.SIGTERM)
	first.await("end")
}

// A successor that fails before it is ready leaves the predecessor serving, and says why.
func TestServiceSuccessorFails(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	bad := c
	bad.FailBeforeReady = true
	second := launch(t, bad)
	if kept := first.await(string(EventKept)); kept.PID != ready.PID {
		t.Errorf("%+v", kept)
	}
	<-second.ended
	mustServe(t, c, ready.Addr, ready.PID)
	_, next := launchUntilReady(t, c, refusedAsSecond)
	mustServe(t, c, ready.Addr, next.PID)
}

// takeByPath is a successor that is no Service.
func takeByPath(t testing.TB, c serviceConfig) (*Takeover, error) {
	t.Helper()
	conn, err := net.Dial("unixpacket", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	sc, err := scm.NewConn(conn.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	return Take(t.Context(), sc, Wish{Name: "test"})
}

// Of two successors one wins, and the other is told.
func TestServiceTwoSuccessors(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	one, err := takeByPath(t, c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = takeByPath(t, c)
	if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "another successor is taking over") {
		t.Errorf("the second: %v", err)
	}
	one.Abort(errors.New("changed my mind"))
	mustServe(t, c, ready.Addr, ready.PID)
	_, next := launchUntilReady(t, c, refusedAsSecond)
	mustServe(t, c, ready.Addr, next.PID)
}

// A process of the same user that connects and says nothing, a monitor say, turns no successor away.
func TestServiceSilentConnections(t *testing.T) {
	c := config(t)
	ready := launch(t, c).await("ready")
	for range 10 {
		silent, err := net.Dial("unixpacket", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	one, err := takeByPath(t, c)
	if err != nil {
		t.Fatal(err)
	}
	one.Abort(errors.New("changed my mind"))
	mustServe(t, c, ready.Addr, ready.PID)
}

// A program that keeps and forgets all the while must not turn a successor away.
func TestServiceForgetKeepsNobodyOut(t *testing.T) {
	svc, err := Start(t.Context(), Options{Name: "test", Program: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	svc.mu.Lock() // so that Forget stays where it is
	var forgotten sync.WaitGroup
	forgotten.Go(func() { svc.Forget("nothing") })
	testutil.Eventually(t, "Forget is under way", func() bool {
		free := svc.handing.TryLock()
		if free {
			svc.handing.Unlock()
		}
		return !free
	})
	upgraded := make(chan error, 1)
	go func() { upgraded <- svc.Upgrade(t.Context()) }()
	testutil.Eventually(t, "the successor is here", svc.taking.Load)
	svc.mu.Unlock()
	forgotten.Wait()
	if err := <-upgraded; !errors.Is(err, ErrKept) || strings.Contains(err.Error(), "another successor") {
		t.Errorf("upgrade: %v", err)
	}
	if err := svc.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := svc.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// An upgrade that is asked for by a signal has nobody to return its error to.
func TestServiceUpgradeTellsWhy(t *testing.T) {
	testutil.NoLeaks(t) // and so the collector makes no room in a full table
	events := make(chan Event, 10)
	svc, err := Start(t.Context(), Options{Name: "test", Program: "/bin/false", Events: func(e Event) { events <- e }})
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for len(events) > 0 {
		<-events
	}
	empty := testutil.FillTable(t, 0)
	err = svc.Upgrade(t.Context())
	empty()
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v", err)
	}
	select {
	case e := <-events:
		if e.Kind != EventKept || !errors.Is(e.Err, syscall.EMFILE) {
			t.Errorf("%+v", e)
		}
	default:
		t.Error("nobody is told")
	}
	if err := svc.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := svc.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// A program that is told to stop while a successor rehearses does not wait for that.
func TestServiceStopDuringRehearsal(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	one, err := takeByPath(t, c)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_ = syscall.Kill(ready.PID, syscall.SIGTERM)
	if end := first.await("end"); end.Error != "<nil>" {
		t.Errorf("the drain: %s", end.Error)
	}
	if took := time.Since(start); took > 40*time.Second { // Rehearse is a minute
		t.Errorf("it took %v to stop", took)
	}
	if err := one.Ready(t.Context()); err == nil {
		t.Error("the successor took over from a service that was told to stop")
	}
	for _, path := range []string{c.Socket, c.Unix} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

// A third process that comes while the first can still take back gets the service from the second, which
// is released first; the first does not answer at the path any more.
func TestServiceDuringProbation(t *testing.T) {
	c := config(t)
	c.Deadlines.Probation = 2 * time.Minute
	first := launch(t, c)
	ready := first.await("ready")
	for range 5 {
		start := time.Now()
		next := launch(t, c)
		l := next.await("ready")
		mustServe(t, c, ready.Addr, l.PID)
		if took := time.Since(start); took > c.Deadlines.Probation {
			t.Errorf("it waited %v for the probation", took)
		}
	}
}

// While the first hangs and could still take back, the second hands on to nobody. It does when the first goes on, and
// when somebody has killed it.
func TestServiceOfHungPredecessor(t *testing.T) {
	for _, end := range []syscall.Signal{syscall.SIGCONT, syscall.SIGKILL} {
		t.Run(end.String(), func(t *testing.T) {
			t.Parallel()
			c := config(t)
			c.Deadlines.Probation, c.Deadlines.Answer = time.Minute, 50*time.Millisecond
			first := launch(t, c)
			ready := first.await("ready")
			second := launch(t, c)
			next := second.await("ready")
			testutil.Suspend(t, ready.PID)
			for range 2 {
				var err error
				testutil.Eventually(t, "nobody else is being refused", func() bool {
					_, err = takeByPath(t, c)
					return err == nil || !strings.Contains(err.Error(), "another successor")
				})
				if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "release the predecessor") {
					t.Fatalf("a third: %v", err)
				}
			}
			mustServe(t, c, ready.Addr, next.PID)
			_ = syscall.Kill(ready.PID, end)
			<-first.ended
			_, third := launchUntilReady(t, c, ErrKept.Error(), ErrPredecessorHung.Error())
			mustServe(t, c, ready.Addr, third.PID)
		})
	}
}

// A path that somebody left behind is replaced, and taken away in the end, also by a later generation.
func TestServiceReplacesStalePath(t *testing.T) {
	c := config(t)
	stale, err := net.Listen("unix", c.Unix)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	first := launch(t, c)
	ready := first.await("ready")
	mustServe(t, c, ready.Addr, ready.PID)
	second := launch(t, c)
	next := second.await("ready")
	mustServe(t, c, ready.Addr, next.PID)
	first.await("end")
	_ = second.Process.Signal(syscall.SIGTERM)
	second.await("end")
	left, err := os.ReadDir(filepath.Dir(c.Unix))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if f.Name() != filepath.Base(c.Socket)+".lock" {
			t.Errorf("%s is left", f.Name())
		}
	}
}

// Connecting to a file that is no socket is refused in the same way, and it is not replaced.
func TestListenLeavesFiles(t *testing.T) {
	testutil.NoLeaks(t)
	dir := testutil.ShortDir(t)
	stale := filepath.Join(dir, "stale")
	ln, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.Symlink(stale, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if ln, err := listen("unix", path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: %v", path, err)
			_ = ln.Close()
		}
	}
	if b, err := os.ReadFile(file); string(b) != "x" {
		t.Errorf("the file is gone: %v", err)
	}
	if ln, err = listen("unix", stale); err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

// What the successor does not want, the predecessor serves out, and closes.
func TestServiceUnclaimed(t *testing.T) {
	c := config(t)
	with := c
	with.Deadlines.Probation = time.Hour // clients come meanwhile
	path, addr := filepath.Join(testutil.ShortDir(t), "extra"), testutil.FreeAddress(t)
	with.Extra = path + "," + addr
	first := launch(t, with)
	ready := first.await("ready")
	second := launch(t, c)
	second.await("ready")
	// The predecessor is paused, and stays so for all of its probation.

	clients := make([]net.Conn, 20)
	for i := range clients {
		network, address := "unix", path
		if i%2 == 1 {
			network, address = "udp", addr
		}
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if network == "udp" {
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		clients[i] = conn
	}
	next := launch(t, c).await("ready") // which ends the probation
	var told []string
	for range 2 {
		l := first.await(string(EventUnclaimed))
		told = append(told, l.Name)
	}
	if want := []string{"udp://" + addr, "unix://" + path}; !slices.Equal(slices.Sorted(slices.Values(told)), want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	for i, conn := range clients {
		p := make([]byte, 100)
		n, err := conn.Read(p)
		if err != nil || string(p[:n]) != fmt.Sprint(ready.PID) {
			t.Errorf("client %d: %q, %v", i, p[:n], err)
		}
	}
	if end := first.await("end"); end.Error != "<nil>" {
		t.Errorf("the drain: %s", end.Error)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("its path is left")
	}
	mustServe(t, c, ready.Addr, next.PID)
}

// Clients of a Unix listener see who serves now, and never that nobody does.
func TestServiceUnixOwner(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	load := &clients{stop: make(chan struct{})}
	for range 4 {
		load.run("unix", c.Unix, false)
	}
	t.Cleanup(load.end)
	before, err := os.Lstat(c.Unix)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		next := launch(t, c)
		l := next.await("ready")
		conn, err := net.Dial("unix", c.Unix)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := credentials.Peer(conn.(*net.UnixConn))
		if err != nil || peer.PID != l.PID {
			t.Errorf("%+v, %v: want pid %d, after %d", peer, err, l.PID, ready.PID)
		}
		conn.Close()
		first.await("end")
		first = next
	}
	after, err := os.Lstat(c.Unix)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("another socket lies at the path: %v", err)
	}
	load.end()
	if len(load.refused)+len(load.cut) > 0 || load.answers == 0 {
		t.Errorf("%d answers, refused %q, cut %q", load.answers, load.refused, load.cut)
	}
}

// Each generation finishes its long request, however many generations there are by then.
func TestServiceGenerationsDrain(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Slow = 1500 * time.Millisecond
	const generations = 5
	answers := make(chan string, generations)
	var all []*running
	var ready line
	for i := range generations {
		r := launch(t, c)
		l := r.await("ready")
		if i == 0 {
			ready = l
		}
		all = append(all, r)
		conn, err := net.Dial("tcp", ready.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		k := &talk{t, conn, bufio.NewReader(conn)}
		k.send(get("/first")) // the connection is accepted by this generation
		k.answer()
		k.send(get("/slow"))
		r.await("slow") // until it is read, it may move with its connection
		go func() {
			resp, err := http.ReadResponse(k.in, nil)
			if err != nil {
				answers <- err.Error()
				return
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			conn.Close() // or it is silent for its grace, and the drain near the end of its time
			answers <- string(body)
		}()
		want := fmt.Sprintf("%d %d", i+1, l.PID)
		if answer, err := ask("tcp", ready.Addr); err != nil || !strings.HasPrefix(answer, want) {
			t.Errorf("%q, %v: want %q", answer, err, want)
		}
	}
	_ = all[generations-1].Process.Signal(syscall.SIGTERM)
	for _, r := range all {
		if end := r.await("end"); end.Error != "<nil>" {
			t.Errorf("the drain: %s", end.Error)
		}
	}
	var pids []string
	for range generations {
		answer := <-answers
		if f := strings.Fields(answer); len(f) != 3 || f[2] != "/slow" || slices.Contains(pids, f[1]) {
			t.Errorf("%q", answer)
		} else {
			pids = append(pids, f[1])
		}
	}
}

// A predecessor that hangs after it has handed everything over is killed by a successor that may, and left alone by one
// that may not.
func TestServiceForce(t *testing.T) {
	for _, force := range []bool{false, true} {
		t.Run(fmt.Sprint(force), func(t *testing.T) {
			c := config(t)
			c.TCP = testutil.FreeAddress(t)
			c.Deadlines.Commit, c.Deadlines.Answer = 300*time.Millisecond, 300*time.Millisecond
			if force {
				c.Deadlines.Answer = 3 * time.Second // in which the killed one has to die, too
			}
			hangs := c
			hangs.Role, hangs.Step, hangs.Do = "predecessor", stepAdopted, "stop"
			first := launch(t, hangs)
			ready := first.await("ready")
			c.Force = force
			second := launch(t, c)
			if !force {
				select {
				case <-second.ended:
				case <-time.After(time.Minute):
					t.Fatal("the successor does not give up")
				}
				if got := second.complaints.String(); !strings.Contains(got, ErrPredecessorHung.Error()) {
					t.Errorf("%s", got)
				}
				testutil.AwaitStopped(t, ready.PID)
				_ = syscall.Kill(ready.PID, syscall.SIGCONT)
				mustServe(t, c, ready.Addr, ready.PID)
				return
			}
			next := second.await("ready")
			mustServe(t, c, ready.Addr, next.PID)
			if err := <-first.ended; err == nil || !strings.Contains(err.Error(), "killed") {
				t.Errorf("the predecessor: %v", err)
			}
		})
	}
}

// Who waits in the queue of a service that is told to stop, and that nobody follows, is accepted and answered.
func TestServiceStopServesTheQueue(t *testing.T) {
	testutil.NoLeaks(t)
	svc, err := Start(t.Context(), Options{Name: "test", Program: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := svc.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	clients := make([]net.Conn, 100) // the least queue that a system has by default is of 128
	for i := range clients {
		if clients[i], err = net.Dial("tcp", ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer clients[i].Close()
		_ = clients[i].SetDeadline(time.Now().Add(20 * time.Second))
	}
	if err := svc.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- svc.Serve(oneByOne{}, ln) }()
	if err := errors.Join(svc.Drain(t.Context()), <-served); err != nil {
		t.Error(err)
	}
	for i, c := range clients {
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Fatalf("client %d: %q, %v", i, b, err)
		}
	}
}

// A service that begins when another is told to stop finds its addresses free: it does not begin before. The other's
// connections do not keep it waiting, its packet sockets do.
func TestServiceStopKeepsItsAddresses(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			testutil.NoLeaks(t)
			o := Options{Name: "test", Socket: filepath.Join(testutil.ShortDir(t), "s"), Program: "/bin/false"}
			svc, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			address := testutil.FreeAddress(t)
			ln, err := svc.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			if network == "udp" {
				if _, err := svc.ListenPacket("udp", address); err != nil {
					t.Fatal(err)
				}
			}
			if err := svc.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			accepted, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if err := svc.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := Start(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("another began while the listener is open: %v", err)
			}

			draining, drain := context.WithCancel(t.Context())
			defer drain()
			drained := make(chan error, 1)
			go func() { drained <- svc.Drain(draining) }()
			if network == "udp" {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if _, err := Start(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("another began while the packet socket is open: %v", err)
				}
				accepted.Close() // and so the drain ends
			}
			next, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if network == "udp" {
				_, err = next.ListenPacket("udp", address)
			} else {
				_, err = next.Listen("tcp", address)
			}
			if err != nil {
				t.Errorf("the address of the one before: %v", err)
			}
			accepted.Close()
			if err := errors.Join(<-drained, next.Stop(t.Context()), next.Drain(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
}

// oneByOne is a server that answers each client before it accepts the next.
type oneByOne struct{}

func (oneByOne) Serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(c, "hello")
		c.Close()
	}
}

// What an operator reads: a line for each step, of both sides, and none twice.
func TestServiceLog(t *testing.T) {
	c := config(t)
	c.Log = true
	first := launch(t, c)
	ready := first.await("ready")
	second := launch(t, c)
	second.awaitEach("ready", string(EventSettled))
	first.await("end")
	<-first.ended
	_ = second.Process.Signal(syscall.SIGTERM)
	second.await("end")
	<-second.ended
	for _, log := range []struct {
		got  string
		want []string
	}{
		{first.complaints.String(), []string{
			`"began afresh" service=test generation=1`,
			"serving service=test generation=1",
			"offering service=test generation=1",
			"paused service=test generation=1 took=",
			`"handed over" service=test generation=1 took=`,
			"drained service=test generation=1 took=",
		}},
		{second.complaints.String(), []string{
			fmt.Sprintf("adopted service=test generation=2 peer=%d count=", ready.PID),
			"serving service=test generation=2",
			fmt.Sprintf("settled service=test generation=2 peer=%d", ready.PID),
			`"told to stop" service=test generation=2`,
			"drained service=test generation=2 took=",
		}},
	} {
		lines := strings.Split(strings.TrimSpace(log.got), "\n")
		if len(lines) != len(log.want) {
			t.Errorf("%d lines, want %d:\n%s", len(lines), len(log.want), log.got)
			continue
		}
		for i, want := range log.want {
			if !strings.Contains(lines[i], "level=INFO msg="+want) {
				t.Errorf("%s\nwant %s", lines[i], want)
			}
		}
	}
}

// However quick the predecessor is to let go, and slow who hears of it, the events come in the order of a life.
func TestServiceServesBeforeItSettles(t *testing.T) {
	testutil.NoLeaks(t)
	p, c := pair(t, socketpair.SeqPacket)
	offered := make(chan error, 1)
	go func() {
		offered <- Offer(t.Context(), p, Offering{Name: "test", Deadlines: Deadlines{Probation: time.Nanosecond, MaxPause: patient}})
	}()
	var svc *Service
	events := make(chan EventKind, 10)
	svc, err := Start(t.Context(), Options{Name: "test", Program: "/bin/false", StopSignals: []os.Signal{}, Events: func(e Event) {
		if e.Kind == EventServing {
			if err := svc.takeover.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(50 * time.Millisecond) // who tells of that too early does it meanwhile
		}
		events <- e.Kind
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(svc.takeFrom(t.Context(), c), svc.Ready(t.Context()), <-offered); err != nil {
		t.Fatal(err)
	}
	for _, want := range []EventKind{EventFresh, EventServing, EventSettled} {
		if got := <-events; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := errors.Join(svc.Stop(t.Context()), svc.Drain(t.Context())); err != nil {
		t.Error(err)
	}
}

// Who reads in the log that a process began may send it a signal at once.
func TestServiceSignalAtOnce(t *testing.T) {
	testutil.NoLeaks(t)
	svc, err := Start(t.Context(), Options{Name: "test", Program: "/bin/false", StopSignals: []os.Signal{syscall.SIGUSR2}, Events: func(e Event) {
		if e.Kind == EventFresh {
			_ = syscall.Kill(os.Getpid(), syscall.SIGUSR2) // which the Go runtime throws away if nobody asks for it
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-svc.Stopping():
	case <-time.After(patient):
		t.Error("the signal is lost")
		_ = svc.Stop(t.Context())
	}
	if err := svc.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// A successor that is told to stop before it owns leaves everything to the predecessor: the paths too.
func TestServiceSuccessorToldToStop(t *testing.T) {
	c := config(t)
	first := launch(t, c)
	ready := first.await("ready")
	rehearses := c
	rehearses.Rehearse = true
	b, err := json.Marshal(rehearses)
	if err != nil {
		t.Fatal(err)
	}
	cmd := aService.Command(t)
	rehearsal, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer rehearsal.Close()
	second := launchCommand(t, cmd, "SERVICE="+string(b))
	pid := second.await("rehearsing").PID
	_ = syscall.Kill(pid, syscall.SIGTERM)
	second.await(string(EventStop))
	first.await(string(EventKept))
	rehearsal.Close() // it goes on to Ready
	if err := <-second.ended; err == nil {
		t.Error("it served")
	}
	mustServe(t, c, ready.Addr, ready.PID)
	_, next := launchUntilReady(t, c, refusedAsSecond)
	mustServe(t, c, ready.Addr, next.PID)
}
