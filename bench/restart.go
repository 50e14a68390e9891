package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/load"
)

// A server is replaced again and again while clients ask.

// A Restart is what was seen of one technique with one kind of clients.
type Restart struct {
	Technique  string   `json:"technique"`
	Mode       string   `json:"mode"`
	Upgrades   int      `json:"upgrades"`
	Requests   int      `json:"requests"`
	Failed     int      `json:"failed"`
	Reconnects int      `json:"reconnects"` // of kept-alive connections that the server ended in good order
	Around     float64  `json:"p99_9_around_ms"`
	Away       float64  `json:"p99_9_away_ms"`
	Slowest    float64  `json:"slowest_around_ms"`
	Accepting  Spread   `json:"accepting_ms"` // from the trigger until a new process answers
	Errors     []string `json:"errors,omitempty"`
	Skipped    string   `json:"skipped,omitempty"`
}

const (
	upgradesOfRun = 10
	restPause     = 300 * time.Millisecond // between two upgrades; half of it is still around the one before
	restartWait   = time.Minute
	answerFormat  = "generation %d pid %d path %s\n"
)

// A loadMode is what asks.
type loadMode struct {
	name, about string
	kind        load.Kind
	clients     int
	interval    time.Duration
	rest        time.Duration // between two upgrades
}

func (m *loadMode) options() load.Options {
	return load.Options{Kinds: slices.Repeat([]load.Kind{m.kind}, m.clients), Interval: m.interval}
}

var modes = []loadMode{
	{"new", "a connection for each request, 16 clients at full speed", load.New, 16, 0, restPause},
	{"new at a rate", "a connection for each request, 1 000 in a second", load.NewAtRate, 50, 50 * time.Millisecond, restPause},
	{"keep", "32 kept-alive connections at full speed", load.KeepAlive, 32, 0, restPause},
	{"think", "200 kept-alive connections, with pauses of 1 to 10 ms", load.WithPauses, 200, 0, restPause},
	{"keep at a rate", "100 kept-alive connections, 1 000 requests in a second", load.KeptAtRate, 100, 100 * time.Millisecond, restPause},
}

// manyLive is for the technique that moves connections: whom does it hold up that so many move?
var manyLive = loadMode{"8 000 live", "8 000 kept-alive connections, 1 000 requests in a second", load.KeptAtRate, 8000, 8 * time.Second, 2 * time.Second}

const upgradesOfMany = 3

// A service is a server that runs: a process that we started, its successors, and how they are made.
type service struct {
	addr    string
	folder  string
	started []*exec.Cmd // by us; successors are in the same process groups
	replace func(s *service, serves int) error
}

// groups are the process groups of services that run, which an interrupted benchmark must end.
var groups struct {
	sync.Mutex
	pids map[int]bool
}

func killGroups() {
	groups.Lock()
	defer groups.Unlock()
	for pid := range groups.pids {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// run starts a process of the service, in a process group of its own.
func (s *service) run(cmd *exec.Cmd) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log // a file, because successors inherit it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	groups.Lock()
	defer groups.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	if groups.pids == nil {
		groups.pids = map[int]bool{}
	}
	groups.pids[cmd.Process.Pid] = true
	s.started = append(s.started, cmd)
	return nil
}

// log is the file with what all processes of the service say.
func (s *service) log() string { return filepath.Join(s.folder, "log") }

// lastWords returns the end of the log.
func (s *service) lastWords() string {
	const lines = 8
	b, _ := os.ReadFile(s.log())
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], " / ")
}

func (s *service) close() {
	groups.Lock()
	for _, cmd := range s.started {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		delete(groups.pids, cmd.Process.Pid)
	}
	groups.Unlock()
	for _, cmd := range s.started {
		_ = cmd.Wait()
	}
	_ = os.RemoveAll(s.folder)
}

// A technique is a way to replace a server.
type technique struct {
	name  string
	needs string // a program, or nothing
	start func(s *service) error
}

// signalled is a service of this program that replaces itself when its serving process gets a signal.
func signalled(name string, sig syscall.Signal) technique {
	return technique{name: name, start: func(s *service) error {
		s.replace = func(_ *service, serves int) error { return syscall.Kill(serves, sig) }
		return s.runSelf(name)
	}}
}

func (s *service) runSelf(name string) error {
	cmd, err := job{role: "serve", contender: name + " " + s.addr}.command()
	if err != nil {
		return err
	}
	return s.run(cmd)
}

var techniques = []technique{
	signalled("fdkit, connections move", syscall.SIGHUP),
	signalled("fdkit, drain only", syscall.SIGHUP),
	signalled("tableflip + Shutdown", syscall.SIGHUP),
	{name: "overseer", start: func(s *service) error {
		s.replace = func(s *service, _ int) error { return syscall.Kill(s.started[0].Process.Pid, syscall.SIGUSR2) }
		return s.runSelf("overseer")
	}},
	signalled("endless", syscall.SIGHUP),
	{name: "nginx reload", needs: "nginx", start: func(s *service) error {
		config := filepath.Join(s.folder, "nginx.conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, s.folder, s.addr), 0o600); err != nil {
			return err
		}
		s.replace = func(s *service, _ int) error { return syscall.Kill(s.started[0].Process.Pid, syscall.SIGHUP) }
		return s.run(exec.Command("nginx", "-p", s.folder, "-c", config, "-e", filepath.Join(s.folder, "errors")))
	}},
	{name: "HAProxy -x", needs: "haproxy", start: func(s *service) error {
		config := filepath.Join(s.folder, "haproxy.cfg")
		if err := os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, s.folder, s.addr), 0o600); err != nil {
			return err
		}
		s.replace = func(s *service, serves int) error {
			return s.run(exec.Command("haproxy", "-db", "-f", config, "-x", filepath.Join(s.folder, "admin"), "-sf", fmt.Sprint(serves)))
		}
		return s.run(exec.Command("haproxy", "-db", "-f", config))
	}},
}

const nginxConfig = `daemon off;
worker_processes 2;
pid %[1]s/pid;
events { worker_connections 4096; }
http {
	access_log off;
	keepalive_requests 100000000;
	server {
		listen %[2]s;
		location / { default_type text/plain; return 200 "generation 0 pid $pid path $request_uri\n"; }
	}
}
`

const haproxyConfig = `global
	stats socket %[1]s/admin mode 600 level admin expose-fd listeners
	nbthread 2
	maxconn 4096
defaults
	mode http
	timeout client 30s
	timeout server 30s
	timeout connect 5s
	timeout http-keep-alive 30s
frontend main
	bind %[2]s
	http-request return status 200 content-type text/plain lf-string "generation 0 pid %%pid path %%[path]\n"
`

// startService starts a technique, and returns when it answers.
func startService(t technique) (*service, int, error) {
	if t.needs != "" {
		if _, err := exec.LookPath(t.needs); err != nil {
			return nil, 0, err
		}
	}
	// On this address no port goes to a client meanwhile.
	ln, err := net.Listen("tcp", "127.2.0.1:0")
	if err != nil {
		return nil, 0, err
	}
	s := &service{addr: ln.Addr().String()}
	_ = ln.Close()
	if s.folder, err = os.MkdirTemp("", "fdkit-bench"); err != nil {
		return nil, 0, err
	}
	if err := t.start(s); err != nil {
		s.close()
		return nil, 0, err
	}
	pid, err := s.another(func(int) bool { return true })
	if err != nil {
		s.close()
		return nil, 0, errors.WithMessage(err, "start")
	}
	return s, pid, nil
}

// another waits until a process answers that is wanted, on a new connection, and returns its pid.
func (s *service) another(wanted func(pid int) bool) (int, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	deadline := time.Now().Add(restartWait)
	for {
		pid, err := probe(&client, s.addr)
		if err == nil && wanted(pid) {
			return pid, nil
		}
		if time.Now().After(deadline) {
			return 0, errors.Errorf("no new process answers after %v: pid %d, %v", restartWait, pid, err)
		}
		time.Sleep(time.Millisecond / 2)
	}
}

func probe(client *http.Client, addr string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/probe", nil)
	if err != nil {
		return 0, err
	}
	r, err := client.Do(q)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	var generation int
	var path string
	_, err = fmt.Sscanf(string(body), answerFormat, &generation, &pid, &path)
	return pid, err
}

// window is a time after the begin of a load.
type window struct{ from, to time.Duration }

// restart runs a technique under one load, and adds what it saw to r.
func restart(t technique, m loadMode, upgrades int, r *restartRun) error {
	s, pid, err := startService(t)
	if err != nil {
		return err
	}
	defer s.close()
	o := m.options()
	o.Addr, o.Format = s.addr, answerFormat
	l := load.Start(o)
	if err := allConnected(l); err != nil {
		l.Stop()
		return err
	}
	near, err := upgradeAll(s, t, pid, l, m.rest, upgrades, r)
	l.Stop()
	if err != nil {
		return errors.WithMessage(err, "last it said: "+s.lastWords())
	}
	r.add(l, near)
	return nil
}

// allConnected waits until each client at a fixed rate has had its turn: all connections are there then.
func allConnected(l *load.Load) error {
	time.Sleep(l.Interval())
	if l.Interval() > 0 && l.Answered.Load() == 0 {
		return errors.New("nobody was answered")
	}
	return nil
}

// upgradeAll has the process that serves replaced, again and again, and returns when that was.
func upgradeAll(s *service, t technique, pid int, l *load.Load, pause time.Duration, upgrades int, r *restartRun) (near []window, err error) {
	begin := l.Begin
	seen := map[int]bool{pid: true}
	rest := func() {
		end, answered := time.Now().Add(pause), l.Answered.Load()
		few := func() bool { // on a machine that has other things to do
			return l.Answered.Load() < answered+10 && time.Now().Before(end.Add(restartWait))
		}
		for ; time.Now().Before(end) || few(); time.Sleep(pause / 10) {
			if t.needs == "nginx" { // it has several workers, of which one may answer late
				if other, err := s.another(func(int) bool { return true }); err == nil {
					seen[other] = true
				}
			}
		}
	}
	rest()
	for range upgrades {
		trigger := time.Since(begin)
		if err := s.replace(s, pid); err != nil {
			return nil, err
		}
		if pid, err = s.another(func(pid int) bool { return !seen[pid] }); err != nil {
			return nil, err
		}
		accepting := time.Since(begin)
		seen[pid] = true
		r.accepting = append(r.accepting, float64(accepting-trigger)/1e6)
		near = append(near, window{trigger, accepting + pause/2})
		rest()
	}
	// What the old processes have still to do is a part of it: some cut their connections in the end.
	delete(seen, pid)
	for end := time.Now().Add(drainTime + time.Second); time.Now().Before(end); time.Sleep(restPause / 10) {
		maps.DeleteFunc(seen, func(pid int, _ bool) bool { return ended(pid) })
		if len(seen) == 0 {
			break
		}
	}
	return near, nil
}

// ended reports whether a process does nothing any more.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// restartRun is what was seen in several runs.
type restartRun struct {
	accepting    []float64
	around, away []time.Duration
	requests     int
	failed       int
	reconnects   int
	errors       []string
}

func (r *restartRun) add(l *load.Load, near []window) {
	for x := range l.Samples() {
		r.requests++
		if slices.ContainsFunc(near, func(w window) bool { return x.End() >= w.from && x.Start <= w.to }) {
			r.around = append(r.around, x.Duration())
		} else {
			r.away = append(r.away, x.Duration())
		}
	}
	failures := l.Failures()
	r.requests += len(failures)
	r.failed += len(failures)
	r.reconnects += l.Reconnects()
	for _, f := range failures {
		text := f.Err.Error()
		if errno := syscall.Errno(0); errors.As(f.Err, &errno) {
			text = errno.Error() // without the ports
		}
		if !slices.Contains(r.errors, text) {
			r.errors = append(r.errors, text)
		}
	}
}

// percentile returns the smallest of times that p percent of them do not exceed, in milliseconds.
func percentile(times []time.Duration, p float64) float64 {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	rank := int(math.Ceil(p / 100 * float64(len(times))))
	return float64(times[max(rank, 1)-1]) / 1e6
}

// restarts runs all techniques that wanted says, under all loads, in turn, several rounds.
func restarts(wanted func(string) bool, rounds, upgrades int, progress func(string)) []Restart {
	runs := map[string]*restartRun{}
	skipped := map[string]string{}
	for range rounds {
		for _, m := range modes {
			for _, t := range techniques {
				name := "restart/" + t.name + "/" + m.name
				if !wanted(name) || skipped[t.name] != "" {
					continue
				}
				progress(name)
				if runs[name] == nil {
					runs[name] = &restartRun{}
				}
				if err := restart(t, m, upgrades, runs[name]); errors.Is(err, exec.ErrNotFound) {
					skipped[t.name] = err.Error()
				} else if err != nil {
					runs[name].errors = append(runs[name].errors, "the run ended early: "+err.Error())
				}
			}
		}
	}
	if t, name := techniques[0], "restart/"+techniques[0].name+"/"+manyLive.name; wanted(name) {
		progress(name)
		runs[name] = &restartRun{}
		if err := restart(t, manyLive, upgradesOfMany, runs[name]); err != nil {
			runs[name].errors = append(runs[name].errors, "the run ended early: "+err.Error())
		}
	}
	var all []Restart
	for _, t := range techniques {
		for _, m := range append(slices.Clip(modes), manyLive) {
			run := runs["restart/"+t.name+"/"+m.name]
			if run == nil {
				continue
			}
			x := Restart{Technique: t.name, Mode: m.name, Skipped: skipped[t.name]}
			if x.Skipped == "" {
				x.Upgrades, x.Requests, x.Failed, x.Reconnects = len(run.accepting), run.requests, run.failed, run.reconnects
				x.Around, x.Away, x.Slowest = percentile(run.around, 99.9), percentile(run.away, 99.9), percentile(run.around, 100)
				x.Errors = run.errors
				if len(run.accepting) > 0 {
					x.Accepting = spread(run.accepting)
				}
			}
			all = append(all, x)
		}
	}
	return all
}

func (r *Report) restart(technique, mode string) (Restart, bool) {
	for _, x := range r.Restarts {
		if x.Technique == technique && x.Mode == mode {
			return x, true
		}
	}
	return Restart{}, false
}

// restarted writes the tables of restarts.
func (r *Report) restarted(p *page) {
	if len(r.Restarts) == 0 {
		return
	}
	p.line("### Restarts under load\n")
	p.line("A server is replaced %d times in each of two rounds while clients ask; they never ask twice, and look for the end of a connection before they use it again.\n", upgradesOfRun)
	for _, m := range modes {
		p.line("- *%s*: %s", m.name, m.about)
	}
	p.line("\nFailed requests (of all), reconnects in good order, and the slowest of a thousand requests around the upgrades and away from them:\n")
	head := []string{"technique"}
	for _, m := range modes {
		head = append(head, m.name)
	}
	rows := [][]string{append(head, "trigger → a new process answers")}
	for _, t := range techniques {
		row, accepting, some := []string{t.name}, Spread{}, false
		for _, m := range modes {
			cell := ""
			if x, ok := r.restart(t.name, m.name); ok {
				some = true
				cell = fmt.Sprintf("**%d** (%d), %d, %.3g / %.3g ms", x.Failed, x.Requests, x.Reconnects, x.Around, x.Away)
				if m.name == "new at a rate" || accepting.Median == 0 {
					accepting = x.Accepting
				}
				if x.Skipped != "" {
					cell = "skipped: " + x.Skipped
				}
			}
			row = append(row, cell)
		}
		if some {
			rows = append(rows, append(row, fmt.Sprintf("%.3g ms (%.3g–%.3g)", accepting.Median, accepting.Low, accepting.High)))
		}
	}
	p.table(rows)
	if x, ok := r.restart(techniques[0].name, manyLive.name); ok && x.Skipped == "" {
		p.line("%s, and %d upgrades: %d requests, %d failed, %d reconnects; the slowest around an upgrade took %.3g ms, p99.9 is %.3g ms around them and %.3g ms away from them.\n",
			strings.ToUpper(manyLive.about[:1])+manyLive.about[1:], x.Upgrades, x.Requests, x.Failed, x.Reconnects, x.Slowest, x.Around, x.Away)
	}
	for _, x := range r.Restarts {
		if len(x.Errors) > 0 {
			p.line("- %s, %s: %s", x.Technique, x.Mode, strings.Join(x.Errors, "; "))
		}
	}
}
