//go:build linux

package handoff

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/internal/testutil/systemdtest"
	"github.com/fdkit/fdkit/systemd"
)

// aUnit is the program of the tests under a service manager: an HTTP server that answers with its generation
// and pid.
var aUnit = testutil.NewHelper("unit", func([]string) error {
	var c unitConfig
	if err := json.Unmarshal([]byte(os.Getenv("UNIT")), &c); err != nil {
		return err
	}
	testutil.Helper("unit").Inherit() // for Upgrade
	say := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	tell := func(l line) {
		mu.Lock()
		defer mu.Unlock()
		l.PID = os.Getpid()
		_ = say.Encode(l)
		fmt.Fprintf(os.Stderr, "%d: %s %s %s\n", l.PID, l.Event, l.State, l.Error)
	}
	ctx := context.Background()
	svc, err := Start(ctx, Options{
		Name: "unit", Socket: c.Socket, UpgradeSignals: []os.Signal{syscall.SIGHUP}, Deadlines: c.Deadlines,
		Events: func(e Event) {
			l := line{Event: string(e.Kind), State: e.Name}
			if e.Err != nil {
				l.Error = e.Err.Error()
			}
			tell(l)
		},
	})
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/takeover" {
			// A stranger to this process, though of its unit: it knows the path and nothing else.
			cmd := exec.Command("/proc/self/exe")
			for _, v := range os.Environ() {
				if !strings.HasPrefix(v, "NOTIFY_SOCKET=") && !strings.HasPrefix(v, "WATCHDOG_") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			go cmd.Wait()
		}
		fmt.Fprintf(w, "%d %d %s", svc.Generation(), os.Getpid(), r.URL.Path)
	})}
	for _, l := range c.Listen {
		if l[0] == "udp" || l[1] == "dns" {
			conn, err := svc.ListenPacket(l[0], l[1])
			if err != nil {
				return err
			}
			go func() {
				b := make([]byte, 100)
				for {
					n, from, err := conn.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo(fmt.Appendf(nil, "%d %s", os.Getpid(), b[:n]), from)
				}
			}()
			continue
		}
		ln, err := svc.Listen(l[0], l[1])
		if err != nil {
			return err
		}
		go svc.Serve(srv, ln)
	}
	if _, err := os.Stat(c.Bad); err == nil && svc.Generation() > 1 {
		return errors.New("the configuration is bad")
	}
	if err := svc.Ready(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(c.Fatal); err == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // on probation
		select {}
	}
	var env []string
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "WATCHDOG_PID"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	tell(line{Event: "ready", State: strings.Join(env, " ")})
	<-svc.Stopping()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = svc.Drain(ctx)
	tell(line{Event: "end", Error: fmt.Sprint(err)})
	return err
})

type unitConfig struct {
	Socket    string
	Listen    [][2]string
	Deadlines Deadlines

	// Files that make a generation fail, if they are there: a later one before it is ready; any one after.
	Bad, Fatal string
}

func (c unitConfig) environ(t testing.TB) string {
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return "UNIT=" + string(b)
}

// who says which process answers.
func who(t testing.TB, network, address string) string {
	t.Helper()
	answer, err := ask(network, address)
	f := strings.Fields(answer)
	if err != nil || len(f) != 3 {
		t.Fatalf("%s: %q, %v", address, answer, err)
	}
	return f[1]
}

const localSocket = `[Unit]
DefaultDependencies=no
[Socket]
ListenStream=%s
FileDescriptorName=local
Service=web.service
`

// recipe returns a unit file of docs/recipes.md, with some of it replaced.
func recipe(t testing.TB, name string, replace ...string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```ini\n# /etc/systemd/system/"+name+"\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatalf("no recipe of %s", name)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("no %q in %s", replace[i], name)
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	return text
}

// A service under a real manager, from the first start to the last stop, with clients all the while.
func TestServiceUnderSystemd(t *testing.T) {
	testutil.NoLeaks(t)
	m := systemdtest.Start(t)
	tcp := testutil.FreeAddress(t)
	c := unitConfig{
		Socket: "/run/web/handoff.sock",
		Listen: [][2]string{{"systemd", "web"}, {"unix", filepath.Join(m.Dir, "web.sock")}},
		Bad:    filepath.Join(m.Dir, "bad"), Fatal: filepath.Join(m.Dir, "fatal"),
		Deadlines: Deadlines{Probation: 300 * time.Millisecond, MaxPause: patient},
	}
	unix := c.Listen[1][1]
	cmd := aUnit.Command(t)
	cmd.Env = append(cmd.Env, c.environ(t))
	m.Install(t, "web.socket", "[Unit]\nDefaultDependencies=no\n"+recipe(t, "web.socket", "ListenStream=8080", "ListenStream="+tcp))
	m.Install(t, "local.socket", fmt.Sprintf(localSocket, unix))
	_, service, _ := strings.Cut(recipe(t, "web.service", "ExecStart=/usr/local/bin/web\n", "", "WatchdogSec=10s", "WatchdogSec=3s"), "[Service]\n")
	service, _, _ = strings.Cut(service, "[Install]")
	m.Install(t, "web.service", m.Service("web", cmd, service, "Sockets=web.socket local.socket"))
	defer func() {
		if t.Failed() {
			t.Logf("the service said:\n%s", m.Log(t, "web"))
		}
	}()
	show := func(property, want string) {
		t.Helper()
		if have := m.Show(t, "web.service", property); have != want {
			t.Errorf("%s is %q, not %q", property, have, want)
		}
	}
	status := func(prefix string) {
		t.Helper()
		testutil.Eventually(t, "status "+prefix, func() bool {
			return strings.HasPrefix(m.Show(t, "web.service", "StatusText"), prefix)
		})
	}
	m.Systemctl(t, "start", "web.socket", "local.socket")
	m.Systemctl(t, "start", "web.service") // returns with READY=1
	show("ActiveState", "active")
	show("StatusText", "generation 1 serves")
	first := who(t, "tcp", tcp)
	show("MainPID", first)
	since := m.Show(t, "web.service", "ActiveEnterTimestampMonotonic")

	load := startClients(serviceConfig{Unix: unix}, tcp)
	defer load.end()
	served := func(generation int, not string) string {
		t.Helper()
		status(fmt.Sprintf("generation %d serves", generation))
		show("ActiveState", "active")
		pid := who(t, "tcp", tcp)
		if pid == not || who(t, "unix", unix) != pid {
			t.Errorf("generation %d: %s answers after %s", generation, pid, not)
		}
		show("MainPID", pid)
		return pid
	}
	pid := first
	for g := 2; g <= 4; g++ {
		m.Systemctl(t, "reload", "web.service")
		pid = served(g, pid)
	}
	if _, err := askFor("tcp", tcp, "/takeover"); err != nil {
		t.Fatal(err)
	}
	pid = served(5, pid)

	// What comes to nothing leaves the unit as it was.
	for _, fault := range []struct{ file, status string }{
		{c.Bad, "generation 5 serves; no handoff: handoff: the predecessor keeps serving"},
		{c.Fatal, "generation 5 serves; no handoff: handoff: the successor failed"},
	} {
		if err := os.WriteFile(fault.file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		m.Systemctl(t, "reload", "web.service")
		status(fault.status)
		show("ActiveState", "active")
		show("MainPID", pid)
		if now := who(t, "tcp", tcp); now != pid {
			t.Errorf("%s answers, not %s", now, pid)
		}
		_ = os.Remove(fault.file)
	}

	// One of another unit.
	m.Install(t, "other.service", m.Service("other", cmd, "Type=oneshot", "TimeoutStartSec=60s"))
	if out, err := m.Try("start", "other.service"); err == nil {
		t.Errorf("another unit took over: %s", out)
	}
	if said := m.Log(t, "other"); !strings.Contains(said, "is in /system.slice/other.service, this one in /system.slice/web.service") {
		t.Errorf("the other one: %s", said)
	}
	show("MainPID", pid)
	// systemd does not wait for the end of a main process that was not its child when it became that, such as
	// the one of /takeover.
	busy := func() (n int) { // so often the service has been asked before the handoff to the other one was over
		for l := range strings.Lines(m.Log(t, "web")) {
			if strings.HasPrefix(l, pid+": "+string(EventKept)) && strings.Contains(l, refusedAsSecond) {
				n++
			}
		}
		return n
	}
	asked := busy() - 1
	testutil.Eventually(t, "generation 6 serves", func() bool {
		if busy() > asked {
			asked++
			m.Systemctl(t, "reload", "web.service")
		}
		return strings.HasPrefix(m.Show(t, "web.service", "StatusText"), "generation 6 serves")
	})
	pid = served(6, pid)

	// The watchdog has been fed all the while.
	show("NRestarts", "0")
	show("ActiveEnterTimestampMonotonic", since)

	// A restart is no handoff: clients wait in the manager's sockets.
	m.Systemctl(t, "restart", "web.service")
	pid = served(1, pid)
	m.Systemctl(t, "reload", "web.service")
	pid = served(2, pid)
	load.end()
	// What the successor that was killed on probation had accepted died with it.
	if len(load.refused) > 0 || len(load.cut) > clientsOf || load.answers == 0 {
		t.Errorf("%d answers; refused: %q; cut: %q", load.answers, load.refused, load.cut)
	}
	t.Logf("%d requests", load.answers)

	main := m.HostPID(t, pid)
	// It has something to finish: a client that is about to ask.
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	client := &talk{t, conn, bufio.NewReader(conn)}
	client.send(get("/before"))
	client.answer()
	stopped := make(chan error, 1)
	go func() {
		out, err := m.Try("stop", "web.service")
		if err != nil {
			err = fmt.Errorf("stop: %w: %s", err, out)
		}
		stopped <- err
	}()
	testutil.Eventually(t, "it is told to stop", func() bool {
		return strings.Contains(m.Log(t, "web"), pid+": "+string(EventStop))
	})
	for closes := false; !closes; {
		client.send(get("/after"))
		_, closes = client.answer()
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	show("MainPID", "0")
	show("Result", "success")
	show("ExecMainStatus", "0")
	if err := syscall.Kill(main, 0); main == 0 || !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", main, err)
	}
	if said := m.Log(t, "web"); !strings.Contains(said, pid+": end  <nil>\n") {
		t.Errorf("%s has not drained to its end", pid)
	}
	if _, err := os.Stat(unix); err != nil {
		t.Errorf("the manager's path: %v", err)
	}
	// And its sockets start the service again.
	if again := who(t, "unix", unix); again == pid {
		t.Errorf("%s answers", again)
	}
	m.Systemctl(t, "stop", "web.socket", "local.socket", "web.service")
}

// supervised is a service whose manager is the test.
type supervised struct {
	*running
	t      testing.TB
	manage *systemd.NotifyListener
	config unitConfig
	tcp    string
}

func supervise(t testing.TB, d Deadlines, prepare func(*exec.Cmd)) *supervised {
	t.Helper()
	dir := testutil.ShortDir(t)
	manage, err := systemd.ListenNotify(filepath.Join(dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manage.Close() })
	s := &supervised{t: t, manage: manage, tcp: testutil.FreeAddress(t)}
	s.config = unitConfig{
		Socket: filepath.Join(dir, "handoff.sock"), Listen: [][2]string{{"tcp", s.tcp}}, Deadlines: d,
		Bad: filepath.Join(dir, "bad"), Fatal: filepath.Join(dir, "fatal"),
	}
	cmd := aUnit.Command(t)
	cmd.Env = append(cmd.Env, s.config.environ(t), "NOTIFY_SOCKET="+manage.Addr())
	if prepare != nil {
		prepare(cmd)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.running = launchCommand(t, cmd)
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // all generations
	return s
}

// hear returns the next message, and who sent it. The watchdog's are left out.
func (s *supervised) hear() (pid int, state systemd.State) {
	s.t.Helper()
	for {
		pid, state = s.next()
		if state != systemd.Watchdog {
			return pid, state
		}
	}
}

func (s *supervised) next() (pid int, state systemd.State) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, err := s.manage.Receive(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	defer n.Close()
	return n.Sender.PID, n.State
}

// must is hear for a message that is known.
func (s *supervised) must(pid int, variable, value string) systemd.State {
	s.t.Helper()
	from, state := s.hear()
	if got, _ := state.Get(variable); got != value || pid != 0 && from != pid {
		s.t.Fatalf("process %d says %q; want %s=%s of %d", from, state, variable, value, pid)
	}
	return state
}

func (s *supervised) number(state systemd.State, variable string) int64 {
	s.t.Helper()
	value, _ := state.Get(variable)
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		s.t.Errorf("%s in %q: %v", variable, state, err)
	}
	return n
}

func (s *supervised) mustStatus(state systemd.State, prefix string) {
	s.t.Helper()
	if got, _ := state.Get("STATUS"); !strings.HasPrefix(got, prefix) {
		s.t.Errorf("status %q, not %q", got, prefix)
	}
}

func (s *supervised) create(path string) {
	s.t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestServiceTellsManager(t *testing.T) {
	s := supervise(t, Deadlines{Probation: 50 * time.Millisecond}, nil)
	state := s.must(s.Process.Pid, "READY", "1")
	s.mustStatus(state, "generation 1 serves")
	p := s.await("ready").PID
	for g := 2; g <= 3; g++ {
		_ = syscall.Kill(p, syscall.SIGHUP)
		state = s.must(p, "RELOADING", "1")
		s.mustStatus(state, "handing over")
		for _, v := range []string{"MONOTONIC_USEC", "EXTEND_TIMEOUT_USEC"} {
			if n := s.number(state, v); n <= 0 {
				t.Errorf("%s=%d", v, n)
			}
		}
		next := s.await("ready").PID
		s.must(p, "MAINPID", strconv.Itoa(next))
		s.mustStatus(s.must(next, "READY", "1"), fmt.Sprintf("generation %d serves", g))
		p = next
	}
	s.create(s.config.Bad)
	_ = syscall.Kill(p, syscall.SIGHUP)
	s.must(p, "RELOADING", "1")
	s.await(string(EventKept)) // not that of the client below
	s.mustStatus(s.must(p, "READY", "1"), "generation 3 serves; no handoff: ")
	_ = os.Remove(s.config.Bad)

	// A client that is no successor is no reload.
	conn, err := net.Dial("unixpacket", s.config.Socket)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s.await(string(EventKept))

	_ = syscall.Kill(p, syscall.SIGTERM)
	s.mustStatus(s.must(p, "STOPPING", "1"), "stopping")
	if _, state := s.hear(); s.number(state, "EXTEND_TIMEOUT_USEC") < 5e6 { // it drains 10 s at most
		t.Errorf("for its drain it asks: %q", state)
	}
	s.await("end")
}

// As long as the predecessor can take back it is the main process. It can for an hour here.
func TestServiceMainPIDStaysOnProbation(t *testing.T) {
	s := supervise(t, Deadlines{Probation: time.Hour}, nil)
	s.must(s.Process.Pid, "READY", "1")
	p := s.await("ready").PID
	s.create(s.config.Fatal)
	_ = syscall.Kill(p, syscall.SIGHUP)
	s.must(p, "RELOADING", "1")
	s.mustStatus(s.must(p, "READY", "1"), "generation 1 serves; no handoff: handoff: the successor failed")
	_ = os.Remove(s.config.Fatal)

	// A successor that is told to stop does not leave its predecessor as the main process that nobody needs.
	_ = syscall.Kill(p, syscall.SIGHUP)
	s.must(p, "RELOADING", "1")
	next := s.await("ready").PID
	_ = syscall.Kill(next, syscall.SIGTERM)
	s.must(p, "MAINPID", strconv.Itoa(next))
	s.must(next, "READY", "1")
	s.must(next, "STOPPING", "1")
	s.await("end")
	s.await("end")
}

// A third generation comes while the first can take back from the second.
func TestServiceMainPIDInChain(t *testing.T) {
	s := supervise(t, Deadlines{Probation: time.Hour}, nil)
	p := s.Process.Pid
	s.must(p, "READY", "1")
	s.await("ready")
	_ = syscall.Kill(p, syscall.SIGHUP)
	s.must(p, "RELOADING", "1")
	next := s.await("ready").PID
	_ = syscall.Kill(next, syscall.SIGHUP)
	s.must(p, "MAINPID", strconv.Itoa(next))
	s.must(next, "READY", "1")
	s.must(next, "RELOADING", "1")
	s.await("ready")
}

// A process that takes over by path, and knows no manager, gets to know it.
func TestServiceTakeoverKnowsManager(t *testing.T) {
	s := supervise(t, Deadlines{Probation: 50 * time.Millisecond}, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "WATCHDOG_USEC=100000")
	})
	s.must(0, "READY", "1")
	p := s.await("ready").PID
	if _, err := askFor("tcp", s.tcp, "/takeover"); err != nil {
		t.Fatal(err)
	}
	s.must(p, "RELOADING", "1")
	ready := s.await("ready")
	if want := "WATCHDOG_PID=" + strconv.Itoa(ready.PID); ready.State != want {
		t.Errorf("the successor's environment has %q, not %q", ready.State, want)
	}
	s.must(p, "MAINPID", strconv.Itoa(ready.PID))
	s.must(ready.PID, "READY", "1")
	s.fed(ready.PID)
}

// fed checks that three messages for the watchdog come from this process, and none from another.
func (s *supervised) fed(by int) {
	s.t.Helper()
	for range 3 {
		if pid, state := s.next(); state != systemd.Watchdog || pid != by {
			s.t.Errorf("process %d says %q; want WATCHDOG=1 of %d", pid, state, by)
		}
	}
}

// The variables that are for one process: a successor is not deceived by those of its predecessor, or by what
// was never for either.
func TestServiceWatchdog(t *testing.T) {
	s := supervise(t, Deadlines{Probation: 50 * time.Millisecond}, func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `WATCHDOG_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = testutil.NeedProgram(t, "sh")
		cmd.Env = append(cmd.Env, "WATCHDOG_USEC=100000", "LISTEN_PID=1", "LISTEN_FDS=5")
	})
	p := s.Process.Pid
	s.must(p, "READY", "1")
	s.fed(p)
	for range 3 {
		if l := s.await("ready"); l.PID != p || l.State != "WATCHDOG_PID="+strconv.Itoa(p) {
			t.Errorf("process %d, not %d, has %q", l.PID, p, l.State)
		}
		_ = syscall.Kill(p, syscall.SIGHUP)
		s.must(p, "RELOADING", "1")
		_, state := s.hear()
		next := int(s.number(state, "MAINPID"))
		s.must(next, "READY", "1")
		s.fed(next)
		p = next
	}
}

// A manager that does not read holds nothing up for long.
func TestServiceManagerHangs(t *testing.T) {
	s := supervise(t, Deadlines{Probation: 50 * time.Millisecond, Answer: time.Second}, nil)
	p := s.await("ready").PID
	_ = syscall.Kill(p, syscall.SIGHUP)
	if l := s.await(string(EventManager)); l.PID != p || !strings.Contains(l.Error, context.DeadlineExceeded.Error()) {
		t.Errorf("%+v", l)
	}
	if l := s.await(string(EventHanded)); l.PID != p {
		t.Errorf("%+v", l)
	}
	s.await("end")
	// It has been told in the right order nevertheless.
	s.must(p, "READY", "1")
	s.must(p, "RELOADING", "1")
	_, state := s.hear()
	s.must(int(s.number(state, "MAINPID")), "READY", "1")
}

// A program that cannot even be started is a reload that has ended.
func TestServiceManagerHearsFailedStart(t *testing.T) {
	testutil.NoLeaks(t)
	manage, err := systemd.ListenNotify(filepath.Join(testutil.ShortDir(t), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer manage.Close()
	t.Setenv("NOTIFY_SOCKET", manage.Addr())
	svc, err := Start(t.Context(), Options{Program: "/does/not/exist"})
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := svc.Upgrade(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := svc.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := svc.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"READY", "RELOADING", "READY", "STOPPING"} {
		n, err := manage.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := n.State.Get(want); v != "1" {
			t.Errorf("%q, not %s", n.State, want)
		}
		n.Close()
	}
}

// A unit is told from another by its control group.
func TestInUnit(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/web.service":                                       "/system.slice/web.service",
		"0::/system.slice/web.service/main":                                  "/system.slice/web.service",
		"0::/user.slice/user-7.slice/user@7.service/app.slice/web.service/x": "/user.slice/user-7.slice/user@7.service/app.slice/web.service",
		"0::/":                           "/",
		"0::/a/b":                        "/a/b",
		"0::/user.slice/session-3.scope": "/user.slice/session-3.scope",
		"12:cpu:/ 1:name=systemd:/system.slice/web.service 0::/system.slice/web.service": "/system.slice/web.service",
		"0::/ 1:name=systemd:/system.slice/web.service":                                  "/system.slice/web.service",
		"1:name=systemd:/ 0::/a.service":                                                 "/a.service",
		"1:name=systemd:/a.service 0::/b.service":                                        "/a.service and /b.service",
		"12:cpu:/x.service":                                                              "",
		"":                                                                               "",
		"0:/":                                                                            "",
	} {
		text = strings.ReplaceAll(text, " ", "\n") + "\n"
		if unit, ok := unitIn(text); unit != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, unit, ok, want)
		}
	}
	// The process is another one's than it seems when it has ended.
	m := &manager{service: &Service{}}
	self, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if err := m.inUnit(os.Getpid(), self.Alive); err != nil {
		t.Error(err)
	}
	if err := m.inUnit(os.Getpid(), func() bool { return false }); !errors.Is(err, ErrOutside) {
		t.Errorf("of a dead one: %v", err)
	}
	if err := m.inUnit(1<<30, self.Alive); !errors.Is(err, ErrOutside) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of one that nobody sees: %v", err)
	}
	m.service.options.AnyUnit = true
	if err := m.inUnit(1<<30, self.Alive); err != nil {
		t.Errorf("of any unit: %v", err)
	}
}
