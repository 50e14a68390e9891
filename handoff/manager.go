package handoff

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/systemd"
)

// A manager is the service manager, which watches one process of the service, its main one, and is told
// what happens: sd_notify(3). Only the main process speaks, so NotifyAccess=main is enough, and every
// message is sent under the lock, so their order is that of what happened. Nil is no manager.
//
// The main process changes when the predecessor gives up its right to take back, not before: if the
// successor were the main one while it is on probation, and died, the manager would end the predecessor
// with the unit.
type manager struct {
	service *Service
	limit   time.Duration // of a wait for the manager: it must not hold a handoff

	mu        sync.Mutex
	main      bool // this process is the main one
	ready     bool // the manager knows
	reloading bool
}

// The variables of the manager that a successor needs too.
const (
	notifySocket = "NOTIFY_SOCKET"
	watchdogUsec = "WATCHDOG_USEC"
	watchdogPID  = "WATCHDOG_PID"
)

// newManager returns the manager of a service that has looked for its predecessor, nil if there is none.
func newManager(s *Service) *manager {
	if os.Getenv(notifySocket) == "" {
		return nil
	}
	_, watched := os.LookupEnv(watchdogUsec)
	if _, of := os.LookupEnv(watchdogPID); watched && !of {
		// From a predecessor, for whoever becomes the main process, but not for our children.
		_ = os.Setenv(watchdogPID, strconv.Itoa(os.Getpid()))
	}
	// The successor waits for Deadlines.Answer until its predecessor lets go, which may have to wait for another
	// message before that.
	return &manager{service: s, limit: s.options.Deadlines.withDefaults().Answer / 4, main: s.takeover == nil}
}

// environ is what one needs that takes over and was not started by this process, which gives its own
// environment to its child: the same variables, in lines.
func (m *manager) environ() []byte {
	if m == nil {
		return nil
	}
	lines := notifySocket + "=" + os.Getenv(notifySocket) + "\n"
	if d, err := systemd.WatchdogInterval(); err == nil && d > 0 {
		lines += watchdogUsec + "=" + strconv.FormatInt(d.Microseconds(), 10) + "\n"
	}
	return []byte(lines)
}

// adoptManager puts the predecessor's manager into the environment of a process that has none.
func adoptManager(environ []byte) {
	if os.Getenv(notifySocket) != "" || len(environ) == 0 {
		return
	}
	_ = os.Unsetenv(watchdogPID)
	for line := range bytes.Lines(environ) {
		name, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "=")
		if name == notifySocket || name == watchdogUsec {
			_ = os.Setenv(name, value)
		}
	}
}

// successorEnviron is the environment of a successor that this process starts. It becomes the one that the
// watchdog is about, and gets descriptors from this process and from nobody else.
func successorEnviron() []string {
	var env []string
	for _, v := range systemd.Environ(os.Environ(), os.Getpid()) {
		if !strings.HasPrefix(v, watchdogPID+"=") {
			env = append(env, v)
		}
	}
	return env
}

// say tells the manager, and the log if it cannot be told. The service does not depend on it.
func (m *manager) say(states ...systemd.State) {
	ctx, cancel := context.WithTimeout(context.Background(), m.limit)
	defer cancel()
	_, err := systemd.Notify(ctx, states...)
	m.complain(err)
}

func (m *manager) complain(err error) {
	if err != nil {
		m.service.tell(Event{Kind: EventManager, Err: err})
	}
}

// serves says that this process is the main one for good and serves. It works twice.
func (m *manager) serves() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready {
		return
	}
	m.main, m.ready = true, true
	m.say(systemd.Ready, m.status(nil), systemd.Watchdog)
	interval, err := systemd.WatchdogInterval()
	m.complain(err)
	if interval > 0 {
		m.service.background.Go(func() { m.watch(interval / 2) })
	}
}

func (m *manager) status(failed error) systemd.State {
	text := fmt.Sprintf("generation %d serves", m.service.generation)
	if failed != nil {
		text += "; no handoff: " + failed.Error()
	}
	return systemd.Status(text[:min(len(text), 1000)])
}

// watch says that this process lives, as long as it is the main one.
func (m *manager) watch(every time.Duration) {
	tick := time.NewTicker(max(every, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.service.ctx.Done():
			return
		}
		m.mu.Lock()
		main := m.main
		if main {
			m.say(systemd.Watchdog)
		}
		m.mu.Unlock()
		if !main {
			return
		}
	}
}

// reloads says that a handoff begins. It works twice.
func (m *manager) reloads() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.main || m.reloading {
		return
	}
	m.reloading = true
	m.say(systemd.Reloading(), systemd.Status("handing over to a successor"),
		systemd.ExtendTimeout(m.service.options.Deadlines.withDefaults().handoff()))
}

// reloaded says, if this process is still the main one, that the handoff came to nothing. It calls unlock first: the
// manager may ask for the next one as soon as it hears this, which is told after it.
func (m *manager) reloaded(err error, unlock func()) {
	if m == nil {
		unlock()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	unlock()
	if m.main && m.reloading {
		m.reloading = false
		m.say(systemd.Ready, m.status(err))
	}
}

// letGo makes the successor the main process, and returns when the manager has heard that: from then on this
// process may end. It is the last that this one says.
func (m *manager) letGo(pid int) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.main {
		return
	}
	m.main = false
	ctx, cancel := context.WithTimeout(context.Background(), m.limit)
	defer cancel()
	_, err := systemd.Notify(ctx, systemd.MainPID(pid))
	if err == nil {
		_, err = systemd.Barrier(ctx)
	}
	m.complain(err)
}

// stops says that this process stops and nobody follows.
func (m *manager) stops() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.main {
		m.say(systemd.Stopping, systemd.Status("stopping"))
	}
}

// drains asks for the time that a drain may take.
func (m *manager) drains(ctx context.Context) {
	until, ok := ctx.Deadline()
	if m == nil || !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.main {
		m.say(systemd.ExtendTimeout(time.Until(until) + m.limit))
	}
}

// admit says whether a process that has proved who it is may be the successor, and that the handoff begins.
func (s *Service) admit(ctx context.Context, peer *credentials.Sender) error {
	if err := s.manager.inUnit(peer.PID, peer.Process.Alive); err != nil {
		return err
	}
	// While our own predecessor can take back, nobody may take over from us.
	if s.takeover != nil {
		if err := s.takeover.Release(ctx); err != nil {
			return errors.WithMessage(err, "release the predecessor")
		}
		s.manager.serves()
	}
	s.manager.reloads()
	return nil
}

// inUnit is nil for a successor in the unit of this process, which is where the manager looks for its processes.
func (m *manager) inUnit(pid int, alive func() bool) error {
	if m == nil || m.service.options.AnyUnit {
		return nil
	}
	own, err := unitOf("self")
	if err != nil {
		return errors.WithMessage(because(ErrOutside, err), "the own unit is not known")
	}
	its, err := unitOf(strconv.Itoa(pid))
	switch {
	case !alive(): // then that may have been another process
		return errors.WithMessagef(ErrOutside, "process %d has ended", pid)
	case err != nil:
		return errors.WithMessagef(because(ErrOutside, err), "the unit of process %d is not known", pid)
	case its != own:
		return errors.WithMessagef(ErrOutside, "process %d is in %s, this one in %s, and the service manager would lose it; start it with Upgrade, or set Options.AnyUnit", pid, its, own)
	}
	return nil
}

// unitOf returns the control group of a process up to the unit, cgroups(7).
func unitOf(pid string) (string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", err
	}
	unit, ok := unitIn(string(b))
	if !ok {
		return "", errors.New("it has no control group that a service manager uses")
	}
	return unit, nil
}

// unitIn reads /proc/PID/cgroup. A manager uses the hierarchy of version 2, or a named one of version 1; where
// both are mounted, both count, since nobody tells which.
func unitIn(text string) (unit string, ok bool) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 || f[1] != "" && f[1] != "name=systemd" {
			continue
		}
		group := upToUnit(f[2])
		switch {
		case !ok, unit == "/":
			unit, ok = group, true
		case group != "/" && group != unit:
			unit += " and " + group
		}
	}
	return unit, ok
}

// upToUnit cuts off what a unit has made of its own group (Delegate=). The manager of a user is a service itself,
// so the last one counts.
func upToUnit(group string) string {
	parts := strings.Split(group, "/")
	for i := len(parts) - 1; i > 0; i-- {
		if strings.HasSuffix(parts[i], ".service") || strings.HasSuffix(parts[i], ".scope") {
			return strings.Join(parts[:i+1], "/")
		}
	}
	return group
}
