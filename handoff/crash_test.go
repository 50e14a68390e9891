//go:build linux

package handoff

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// A point is a moment of the protocol at which a test lets something happen to one side.
type point struct {
	role   string
	at     step
	before string // the task, "" for the arrival at the step
}

func (p point) String() string {
	s := p.role + "@" + p.at.String()
	if p.before != "" {
		s += " before " + p.before
	}
	return s
}

// points are all moments of a handoff that goes well, as the machines themselves pass them.
func points(t *testing.T) []point {
	t.Helper()
	var mu sync.Mutex
	var all []point
	seen := map[point]bool{}
	probe = func(role string, at step, before string) {
		mu.Lock()
		defer mu.Unlock()
		if p := (point{role, at, before}); !seen[p] {
			seen[p] = true
			all = append(all, p)
		}
	}
	defer func() { probe = nil }()
	to, done := onProbation(t, socketpair.SeqPacket, time.Millisecond)
	if err := errors.Join(to.Wait(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	return all
}

// The table of steps and the moments at which the crash tests strike must not drift apart.
func TestEveryStepHasItsPoints(t *testing.T) {
	have := map[string]bool{}
	for _, p := range points(t) {
		have[p.role+"@"+p.at.String()] = true
	}
	for at := range stepCount {
		if at == stepAborting || at == stepKilling {
			continue // not on the way of a handoff that goes well
		}
		for _, role := range []string{"predecessor", "successor"} {
			if name := role + "@" + at.String(); !have[name] {
				t.Errorf("no crash test strikes at %s", name)
			}
		}
	}
}

// clients ask all the time, on new connections and on kept-alive ones, and never retry.
type clients struct {
	stop    chan struct{}
	once    sync.Once
	working sync.WaitGroup
	mu      sync.Mutex
	answers int
	refused []string // no connection, so nobody can excuse it
	cut     []string // the connection ended without an answer
}

func (c *clients) run(network, address string, keep bool) {
	c.runWith(network, address, keep, func() {})
}

// runWith calls rest before each request.
func (c *clients) runWith(network, address string, keep bool, rest func()) {
	c.working.Go(func() {
		var conn net.Conn
		var in *bufio.Reader
		defer func() {
			if conn != nil {
				conn.Close()
			}
		}()
		for {
			select {
			case <-c.stop:
				return
			default:
			}
			rest()
			if conn != nil && hasEnded(conn) {
				conn.Close()
				conn = nil
			}
			if conn == nil {
				var err error
				if conn, err = net.Dial(network, address); err != nil {
					c.failed(&c.refused, err)
					time.Sleep(5 * time.Millisecond) // or it would fill the log
					continue
				}
				in = bufio.NewReader(conn)
			}
			closing, err := exchange(conn, in)
			if err != nil {
				c.failed(&c.cut, err)
			} else {
				c.mu.Lock()
				c.answers++
				c.mu.Unlock()
			}
			if err != nil || closing || !keep {
				conn.Close()
				conn = nil
			}
		}
	})
}

// end stops the clients. It works twice.
func (c *clients) end() {
	c.once.Do(func() { close(c.stop) })
	c.working.Wait()
}

func (c *clients) failed(list *[]string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*list = append(*list, time.Now().Format("05.000 ")+err.Error())
}

func exchange(conn net.Conn, in *bufio.Reader) (closing bool, err error) {
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // longer than anybody is stopped
	if _, err := io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Close, err
}

// hasEnded notices a FIN before a connection is used again.
func hasEnded(c net.Conn) bool {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	_ = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ended = n == 0 && err == nil || err != nil && err != unix.EAGAIN
	})
	return ended
}

// clientsOf are as many as may lose one request when the process that answers them is killed.
const clientsOf = 6

func startClients(c serviceConfig, addr string) *clients {
	all := &clients{stop: make(chan struct{})}
	for range 2 {
		all.run("tcp", addr, false)
		all.run("tcp", addr, true)
	}
	all.run("unix", c.Unix, false)
	all.run("unix", c.Unix, true)
	return all
}

func TestCrash(t *testing.T) {
	for _, what := range []string{"kill", "stop", "fill"} {
		if what == "stop" && testutil.Race {
			continue // its deadlines are too short for so slow a program, and it is another process anyway
		}
		for _, variant := range []string{"path", "child"} {
			for _, p := range points(t) {
				t.Run(what+"/"+variant+"/"+p.String(), func(t *testing.T) {
					t.Parallel()
					crash(t, what, variant, p)
				})
			}
		}
	}
}

func crash(t *testing.T, what, variant string, p point) {
	// On a slow machine a short deadline may pass before the fault strikes.
	for limit := 600 * time.Millisecond; !crashWithin(t, limit, what, variant, p); limit *= 4 {
		if limit > 10*time.Second {
			t.Fatal("the fault does not strike, or what it does not explain does")
		}
	}
}

// killed is how a process ends that its predecessor has killed.
const killed = "signal: killed"

// crashWithin reports false if the fault did not strike, or something else did: a deadline that is short for the sake of
// the test.
func crashWithin(t *testing.T, limit time.Duration, what, variant string, p point) (struck bool) {
	c := config(t)
	if what == "stop" {
		c.Deadlines = Deadlines{
			Hello: limit, Offer: limit, Rehearse: limit, Commit: limit, Answer: limit / 3, MaxPause: limit / 3,
		}
	}
	c.Deadlines.Probation = 300 * time.Millisecond
	c.TCP = testutil.FreeAddress(t)
	faulty := c
	faulty.Role, faulty.Step, faulty.Before, faulty.Do = p.role, p.at, p.before, what

	one := c
	if p.role == "predecessor" || variant == "child" {
		one = faulty
	}
	first := launch(t, one)
	ready := first.await("ready")
	load := startClients(c, ready.Addr)
	t.Cleanup(load.end)

	var second *running
	if variant == "path" {
		two := c
		if p.role == "successor" {
			two = faulty
		}
		second = launch(t, two)
	} else {
		_ = syscall.Kill(ready.PID, syscall.SIGHUP)
		second = first
	}
	if !settle(t, what, p, limit, first, second) {
		load.end()
		return false
	}

	// Somebody serves, and hands on.
	c.Deadlines = Deadlines{}
	// With a full descriptor table the predecessor cannot pin anybody, or accept.
	excuses := []string{ErrKept.Error(), ErrPredecessorHung.Error()}
	if what == "stop" {
		excuses = append(excuses, killed) // its own deadlines are short
	}
	third, next := launchUntilReady(t, c, excuses...)
	mustServe(t, c, ready.Addr, next.PID)
	load.end()
	_ = third.Process.Signal(syscall.SIGTERM)
	third.await("end")
	if what == "stop" && slices.ContainsFunc(third.failed, func(said string) bool { return strings.Contains(said, killed) }) {
		return false
	}

	refusedOK, cutOK := allowed(what, p, clientsOf)
	if n := len(load.refused); n > 0 && !refusedOK {
		t.Errorf("%d connections refused: %q", n, load.refused[:min(n, 3)])
	}
	if n := len(load.cut); n > cutOK {
		t.Errorf("%d requests not answered, %d could not be: %q", n, cutOK, load.cut[:min(n, 8)])
	}
	if load.answers == 0 {
		t.Error("no request was answered at all")
	}
	return true
}

// refusedAsSecond is what a successor says that comes when the one before has given up and is not quite gone.
const refusedAsSecond = "another successor is taking over"

// launchUntilReady starts a successor, again if it complains of one of excuses. How often does not matter: one that is
// refused at once comes again at once, and what it is refused for takes its time.
func launchUntilReady(t *testing.T, c serviceConfig, excuses ...string) (*running, line) {
	t.Helper()
	return untilReady(t, func() *running { return launch(t, c) }, excuses...)
}

// untilReady is launchUntilReady for a successor of another kind.
func untilReady(t *testing.T, launch func() *running, excuses ...string) (*running, line) {
	t.Helper()
	var failed []string
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		r := launch()
		r.failed = failed
		for l := range r.lines {
			if l.Event == "ready" {
				return r, l
			}
		}
		err := <-r.ended
		said := fmt.Sprintf("%s%v", r.complaints, err)
		if !slices.ContainsFunc(excuses, func(e string) bool { return strings.Contains(said, e) }) {
			t.Fatalf("the last successor ended: %s", said)
		}
		failed = append(failed, said)
	}
	t.Fatalf("nobody can take over any more: after %d others, %s", len(failed)-1, failed[len(failed)-1])
	return nil, line{}
}

// settle waits until the fault has had its effect: the killed one is dead, the stopped one goes on
// after the other's deadlines. It reports false if the handoff came to nothing before the fault, or because of
// a process that was slow and not stopped.
func settle(t *testing.T, what string, p point, limit time.Duration, first, second *running) bool {
	t.Helper()
	switch what {
	case "kill", "fill":
		// Either the handoff ends, or a process does.
		waitAny(t, first, second)
	case "stop":
		l := waitFor(t, first, second, "stopping", string(EventKept), string(EventTookBack))
		if l.Event != "stopping" {
			return false
		}
		testutil.AwaitStopped(t, l.PID)
		// Longer than any deadline of the other side, in which it must come to its decision.
		time.Sleep(limit * 5 / 2)
		_ = syscall.Kill(l.PID, syscall.SIGCONT)
		if waitAny(t, first, second).Event == string(EventTookBack) && !mayTakeBack(p) {
			return false
		}
	}
	return true
}

// mayTakeBack reports whether the predecessor may take back because of who was stopped at p: a successor that has all, or
// gives up because "yours" does not come while that is on its way.
func mayTakeBack(p point) bool {
	if p.role == "successor" {
		return p.at >= stepReady
	}
	return p.at == stepReady || p.at == stepCommit && p.before != ""
}

// waitAny waits for a word about how the handoff ended.
func waitAny(t *testing.T, first, second *running) line {
	t.Helper()
	return waitFor(t, first, second, string(EventKept), string(EventTookBack), string(EventHanded), string(EventSettled), string(EventFresh))
}

// waitFor waits for one of the events from either, or for the end of both: the survivor of a kill has not
// come to its decision when the killed one is seen to be dead.
func waitFor(t *testing.T, first, second *running, events ...string) line {
	t.Helper()
	timeout := time.After(time.Minute)
	one, two := first.lines, second.lines
	if first == second {
		two = nil
	}
	for one != nil || two != nil {
		var l line
		var ok bool
		select {
		case l, ok = <-one:
			if !ok {
				one = nil
			}
		case l, ok = <-two:
			if !ok {
				two = nil
			}
		case <-timeout:
			t.Fatalf("none of %q happens", events)
		}
		if ok && slices.Contains(events, l.Event) {
			return l
		}
	}
	return line{}
}

// allowed says what the surviving side could not have answered, of so many clients.
func allowed(what string, p point, clients int) (refused bool, cut int) {
	switch {
	case what == "kill" && p.role == "predecessor" && p.at <= stepOffer:
		return true, 1 << 20 // it was alone with the sockets: until the successor has begun afresh there are none
	case what == "kill" && p.role == "successor" && p.at == stepOver:
		return true, 1 << 20 // the predecessor had given up its right, and nobody can help who dies alone
	case what == "kill" && p.role == "successor" && p.at < stepCommit:
		return false, 0
	case what == "kill", what == "stop" && p.role == "successor" && (p.at == stepCommit || p.before == "send serving"):
		return false, clients // what the killed one had accepted
	}
	return false, 0
}
