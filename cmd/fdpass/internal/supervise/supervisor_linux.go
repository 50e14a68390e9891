package supervise

import (
	"context"
	"fmt"

	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/signals"
	"github.com/fdkit/fdkit/systemd"
)

// A program that ends by itself is started again: at once if it had run for steady, else after a pause
// that doubles from the second time on, and after so many quick deaths in a row no more.
const (
	steady       = 10 * time.Second
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
	mostDeaths   = 6
)

// A Supervisor keeps one service running. Everything but the Config is under mu.
type Supervisor struct {
	Config

	mu      sync.Mutex
	sockets []*address.Socket
	control *control // nil without
	stderr  uintptr
	started time.Time

	next        int           // number of the next generation
	generations []*generation // that were started and not reaped, by number
	relays      map[*relay]bool
	failed      *GenerationStatus // the last one that was not ready

	again   bool                  // a restart was asked for while one was going on
	waiting []func(failure error) // who asked for that
	deaths  int                   // quick ones in a row
	pause   *time.Timer           // before the next start after a death

	stopping bool
	primary  *generation // when stopping: whose end is ours
	result   int         // what to exit with
	over     chan struct{}

	check   *check // of the program that is to replace this one, nil if there is none
	replace bool   // asked for, waits until nothing starts
	clients []*client
}

var errStopping = errors.New("it is stopping")

// Run opens the sockets, keeps the program running and returns what to exit with, when it has ended
// because it was told to, or cannot be started. An error says why nothing was started.
func Run(c Config) (code int, err error) {
	s := newSupervisor(c)
	s.listen() // or a signal would leave behind what is opened now
	for _, a := range c.Sockets {
		socket, err := a.Open(c.Options)
		if err != nil {
			s.release()
			return 0, err
		}
		s.sockets = append(s.sockets, socket)
	}
	if s.control, err = openControl(c.Name, c.Control); err != nil {
		s.release()
		return 0, err
	}
	s.mu.Lock()
	first := s.start(nil)
	s.mu.Unlock()
	if first != nil {
		s.release()
		return 0, first
	}
	return s.run(), nil
}

func newSupervisor(c Config) *Supervisor {
	return &Supervisor{Config: c, stderr: 2, started: time.Now(), next: 1, relays: map[*relay]bool{},
		over: make(chan struct{})}
}

// listen begins to take signals.
func (s *Supervisor) listen() {
	signals.Take()
	// What a program leaves behind becomes ours to reap, as if we were pid 1.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// run serves until all is over.
func (s *Supervisor) run() int {
	if s.control != nil {
		go s.serveControl()
	}
	s.mu.Lock()
	s.reap() // one may have died before its signal could be taken
	s.mu.Unlock()
	for {
		select {
		case sig := <-signals.Inbox:
			s.mu.Lock()
			s.handle(sig.(syscall.Signal))
			s.mu.Unlock()
		case <-s.over:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.release()
			return s.result
		}
	}
}

// release gives up everything that is held.
func (s *Supervisor) release() {
	s.control.close()
	if s.check != nil {
		s.check.kill()
	}
	for _, socket := range s.sockets {
		if err := socket.Remove(); err != nil {
			s.logf("%v", err)
		}
		socket.Close()
	}
	until := time.Now().Add(outputPatience)
	for r := range s.relays {
		r.drain(until)
	}
}

// outputPatience is how long what is under mu waits for the reader of our standard error.
const outputPatience = time.Second

// logf says one line, unless nobody has read our standard error for a while: a terminal that is stopped, or a full
// pipe, holds up no restart and no signal.
func (s *Supervisor) logf(format string, args ...any) {
	poll := []unix.PollFd{{Fd: int32(s.stderr), Events: unix.POLLOUT}}
	for end := time.Now().Add(outputPatience); ; {
		n, err := unix.Poll(poll, int(max(0, time.Until(end).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			return
		}
		break
	}
	fmt.Fprintf(s.Log, "fdpass: "+format+"\n", args...)
}

// tell tells the service manager of fdpass itself, if there is one that listens.
func (s *Supervisor) tell(states ...systemd.State) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := systemd.Notify(ctx, states...); err != nil {
		s.logf("%v", err)
	}
}

func (s *Supervisor) handle(sig syscall.Signal) {
	switch sig {
	case unix.SIGCHLD:
		s.reap()
	case unix.SIGHUP:
		s.restart(func(error) {})
	case unix.SIGUSR2:
		s.askReplace(nil)
	case unix.SIGUSR1:
		if g := s.live(); g != nil {
			g.signal(sig) // by which programs open their logs again
		}
	case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
		s.stop(sig)
	}
}

// is returns the generation in that state, nil if there is none.
func (s *Supervisor) is(state State) *generation {
	for _, g := range s.generations {
		if g.state == state {
			return g
		}
	}
	return nil
}

func (s *Supervisor) live() *generation { return s.is(Live) }

// busy reports whether a generation is starting or about to, after a death.
func (s *Supervisor) busy() bool { return s.is(Starting) != nil || s.pause != nil }

// restart starts a new generation, now or, if one is starting, after that.
func (s *Supervisor) restart(tell func(failure error)) {
	switch {
	case s.stopping:
		tell(errStopping)
	case s.is(Starting) != nil:
		s.again, s.waiting = true, append(s.waiting, tell)
	default:
		if s.pause != nil {
			s.pause.Stop()
			s.pause = nil
		}
		_ = s.start([]func(error){tell})
	}
}

// start starts a generation. The error is told to those who asked, logged if there is an older one, and
// returned.
func (s *Supervisor) start(askers []func(error)) error {
	number := s.next
	s.next++
	g, err := s.spawn(number)
	if err != nil {
		s.failed = &GenerationStatus{Generation: number, State: Failed, Failure: err.Error()}
		failure := errors.Errorf("generation %d: %s%s", number, s.failed.Failure, s.serves())
		for _, tell := range askers {
			tell(failure)
		}
		if number > 1 {
			s.logf("%v", failure)
			s.afterFailure(1)
		}
		return err
	}
	for r := range s.relays {
		select {
		case <-r.done:
			delete(s.relays, r)
		default: // somebody has its standard error, if not the generation itself
		}
	}
	if s.live() != nil {
		s.tell(systemd.Reloading(), systemd.Status(fmt.Sprintf("generation %d starts", number)))
	}
	g.askers = askers
	s.generations = append(s.generations, g)
	if s.Notify {
		go s.listenTo(g)
		s.after(g, s.Timeout, func() { s.giveUp(g, fmt.Sprintf("no READY=1 within %v", s.Timeout)) })
	} else {
		s.after(g, s.Grace, func() { s.ready(g) })
	}
	return nil
}

// after lets do happen when g has been in its present state for d. What has happened until then comes first: who
// stops this process for a while, or the machine, lets its timers be over before it sees that.
func (s *Supervisor) after(g *generation, d time.Duration, do func()) {
	s.at(g, time.Now().Add(d), do)
}

func (s *Supervisor) at(g *generation, when time.Time, do func()) {
	if g.timer != nil {
		g.timer.Stop()
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(when), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reap()
		s.hearAll(g)
		if g.timer == timer { // and the state is the same one
			g.timer = nil
			do()
		}
	})
	g.timer, g.deadline = timer, when
}

// listenTo handles what a generation tells.
func (s *Supervisor) listenTo(g *generation) {
	for g.notify.wait() == nil {
		s.mu.Lock()
		s.hearAll(g) // what was seen may have been heard by now
		s.mu.Unlock()
	}
}

// hear takes one message, which is there.
func (s *Supervisor) hear(g *generation) {
	m, done, err := g.notify.receive()
	if err != nil {
		return // too long, or its descriptors were lost; or it is closed, which wait tells
	}
	defer done()
	if !believes(&m, g.pid) {
		return
	}
	if m.status != nil {
		g.says = *m.status
	}
	if m.extend > 0 && g.state == Starting && g.timer != nil {
		if until := time.Now().Add(m.extend); until.After(g.deadline) {
			s.after(g, m.extend, func() { s.giveUp(g, "no READY=1 within the time that it asked for") })
		}
	}
	if m.ready && g.verdict == "" && !g.reaped {
		s.reap() // whoever said it and has ended since does not serve
		if g.state == Starting {
			s.ready(g)
		}
	}
}

// inOneGo is how many messages are heard under one lock, more than net.unix.max_dgram_qlen lets wait.
const inOneGo = 4096

// hearAll hears what has been said, but whoever floods the socket does not keep us here.
func (s *Supervisor) hearAll(g *generation) {
	for n := 0; n < inOneGo && g.notify.readable(); n++ {
		s.hear(g)
	}
}

// ready makes g the live generation, and tells the one before to stop.
func (s *Supervisor) ready(g *generation) {
	old := s.live()
	g.enter(Live)
	s.failed = nil
	s.tell(systemd.Ready, systemd.Status(fmt.Sprintf("generation %d serves", g.number)))
	g.answer(nil)
	if old != nil {
		s.retire(old, s.Stop)
	}
	for _, socket := range s.sockets {
		if !socket.InPlace() {
			s.logf("%s: the path was removed or replaced, nobody can connect to it any more", socket.Address)
		}
	}
	s.afterStart()
}

// afterStart does what had to wait while a generation was starting.
func (s *Supervisor) afterStart() {
	switch {
	case s.stopping:
	case s.again:
		askers := s.waiting
		s.again, s.waiting = false, nil
		_ = s.start(askers)
	case s.replace && s.check == nil:
		s.checkReplacement()
	}
}

// retire tells g to stop.
func (s *Supervisor) retire(g *generation, sig syscall.Signal) {
	if g.state != Draining {
		g.enter(Draining)
	}
	if !g.stopped {
		g.stopped = true
		g.signal(sig)
	}
	if s.Drain > 0 && g.timer == nil {
		s.after(g, s.Drain, func() { s.overdue(g) })
	}
}

func (s *Supervisor) overdue(g *generation) {
	s.logf("generation %d was still there %v after it was told to stop: killed", g.number, s.Drain)
	g.kill(unix.SIGKILL)
}

// giveUp kills a generation that did not become ready.
func (s *Supervisor) giveUp(g *generation, why string) {
	g.verdict = why
	g.kill(unix.SIGKILL)
}

// stop ends the service. The first signal asks each generation to finish, in the way that it understands;
// one that was asked before is not asked again, as many programs take a second signal for impatience.
// Further signals are passed on as they are.
func (s *Supervisor) stop(sig syscall.Signal) {
	if s.stopping {
		for _, g := range s.generations {
			g.signal(sig)
		}
		return
	}
	if s.pause != nil {
		s.pause.Stop()
	}
	if sig == unix.SIGTERM {
		sig = s.Stop
	}
	s.result = 128 + int(sig)
	s.retireAll(sig)
}

// retireAll tells all generations to stop. What the live one ends with is the result, or the youngest.
func (s *Supervisor) retireAll(sig syscall.Signal) {
	s.stopping = true
	s.tell(systemd.Stopping)
	if s.primary = s.live(); s.primary == nil && len(s.generations) > 0 {
		s.primary = s.generations[len(s.generations)-1]
	}
	for _, tell := range s.waiting {
		tell(errStopping)
	}
	for _, c := range s.clients {
		c.fail(errStopping)
	}
	s.waiting, s.clients = nil, nil
	for _, g := range s.generations {
		g.answer(errStopping)
		s.retire(g, sig)
	}
	s.finishIfAlone()
}

func (s *Supervisor) finishIfAlone() {
	if len(s.generations) == 0 {
		close(s.over)
	}
}

// reap takes all that have ended, also those that the program left behind.
func (s *Supervisor) reap() {
	for {
		var info unix.Siginfo
		// Looked at first: while it is not reaped nobody else gets its number, as a process or a group.
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err == unix.EINTR {
			continue
		} else if err != nil {
			return
		}
		pid := childPID(&info)
		if pid == 0 {
			return
		}
		i := slices.IndexFunc(s.generations, func(g *generation) bool { return g.pid == pid })
		if i >= 0 {
			s.generations[i].kill(unix.SIGTERM) // workers that it left
		}
		var end unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &end, unix.WNOHANG, nil); err != unix.EINTR {
				break
			}
		}
		switch {
		case i >= 0:
			g := s.generations[i]
			s.generations = slices.Delete(s.generations, i, i+1)
			s.ended(g, end)
		case s.check != nil && s.check.pid == pid:
			s.checked(end)
		}
	}
}

// ended handles the end of a generation.
func (s *Supervisor) ended(g *generation, end unix.WaitStatus) {
	g.reaped = true
	s.hearAll(g)
	g.relay.drain(time.Now().Add(outputPatience))
	state := g.state
	why := g.why(end)
	g.enter(Failed)
	g.notify.close()
	switch {
	case s.stopping:
		if s.primary == g {
			s.result = code(end)
		}
		s.finishIfAlone()
	case state == Starting:
		s.failed = &GenerationStatus{Generation: g.number, PID: g.pid, State: Failed,
			Seconds: time.Since(g.started).Seconds(), Says: g.says, Failure: why}
		failure := errors.Errorf("generation %d failed after %s: %s%s", g.number, uptime(s.failed.Seconds), why, s.serves())
		s.logf("%v", failure)
		if s.live() != nil {
			s.tell(systemd.Ready, systemd.Status(failure.Error()))
		}
		g.answer(failure)
		s.afterFailure(code(end))
	case state == Live:
		s.died(g, why, code(end))
	}
}

// serves says who goes on, for a message.
func (s *Supervisor) serves() string {
	if g := s.live(); g != nil {
		return fmt.Sprintf("; generation %d serves on", g.number)
	}
	return ""
}

// afterFailure goes on after a generation that did not become ready.
func (s *Supervisor) afterFailure(code int) {
	switch {
	case s.again || s.live() != nil:
		s.afterStart()
	case s.deaths == 0: // the first one of all, and there is nothing to go back to
		s.result = code
		s.retireAll(s.Stop)
		s.primary = nil
	default:
		s.startAfterDeath(code)
	}
}

// died handles the end of the live generation that nobody asked for.
func (s *Supervisor) died(g *generation, why string, code int) {
	up := time.Since(g.started)
	if up >= steady {
		s.deaths = 0
	}
	s.logf("generation %d (pid %d) ended by itself after %s: %s", g.number, g.pid, uptime(up.Seconds()), why)
	if s.is(Starting) != nil {
		s.deaths = max(s.deaths, 1)
		return // its successor is on the way
	}
	s.startAfterDeath(code)
}

// startAfterDeath starts the next generation where none serves. Clients wait in the sockets' queues.
func (s *Supervisor) startAfterDeath(code int) {
	s.deaths++
	if s.deaths >= mostDeaths {
		s.logf("it ended %d times in a row: giving up", s.deaths)
		s.result = code
		s.retireAll(s.Stop)
		s.primary = nil // the dead one's status it is
		return
	}
	wait := time.Duration(0)
	if s.deaths > 1 {
		wait = min(firstPause<<(s.deaths-2), longestPause)
	}
	var pause *time.Timer
	pause = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pause == pause && !s.stopping {
			s.pause = nil
			_ = s.start(nil)
		}
	})
	s.pause = pause
}

// status is what there is now.
func (s *Supervisor) status() *Status {
	st := &Status{Name: s.Name, PID: os.Getpid(), Version: s.Version, Seconds: time.Since(s.started).Seconds(), Stopping: s.stopping,
		Sockets: []SocketStatus{}, Generations: []GenerationStatus{}}
	for i, socket := range s.sockets {
		st.Sockets = append(st.Sockets, SocketStatus{Name: socket.Name, Address: socket.String(), Bound: socket.Bound,
			FD: s.Way.First + i, Missing: !socket.InPlace()})
	}
	if s.failed != nil {
		st.Generations = append(st.Generations, *s.failed)
	}
	for _, g := range s.generations {
		st.Generations = append(st.Generations, GenerationStatus{Generation: g.number, PID: g.pid, State: g.state,
			Seconds: time.Since(g.started).Seconds(), Says: g.says})
	}
	slices.SortFunc(st.Generations, func(a, b GenerationStatus) int { return a.Generation - b.Generation })
	return st
}
