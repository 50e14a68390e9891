package handoff

import (
	"context"
	"os"
	ossignal "os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// An initial is what a process does that is pid 1, of a container, and has a successor: its end would be that of all
// processes there, the successor's too. So it stays, passes signals on to the generation that serves, reaps whoever is left
// to it, and ends, with that one's status, when all generations have ended.
//
// It knows them by a pair of sockets. One end travels along with every handoff, and each generation writes to
// it when it owns for good; the kernel says with the message who that is. When all copies of that end are closed,
// nobody is left.
type initial struct {
	ours   *scm.Conn
	theirs *scm.Conn // until there is a successor

	ended chan struct{} // closed when all generations have ended

	mu      sync.Mutex
	live    *credentials.Process
	pid     int
	pending []syscall.Signal      // nobody is known yet
	stops   []os.Signal           // that tell a generation to stop,
	told    []syscall.Signal      // and those that live was sent
	status  map[int]int           // exit codes of whoever was reaped
	waited  map[int]chan struct{} // children that Upgrade waits for; closed when it has
}

// isInit is a variable for tests.
var isInit = os.Getpid() == 1

// newInitial returns nil in all processes but pid 1. stops are the signals that tell a generation to stop.
func newInitial(stops []os.Signal) (*initial, error) {
	if !isInit {
		return nil, nil
	}
	ours, theirs, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		return nil, err
	}
	for _, set := range []func(bool) error{ours.SetPassCred, ours.SetPassPIDFD} {
		if err := set(true); err != nil {
			// Before Linux 6.5. Nobody can be pinned there either, so there will be no successor.
			_ = ours.Close()
			_ = theirs.Close()
			return nil, nil
		}
	}
	return &initial{
		ours: ours, theirs: theirs, stops: stops,
		ended: make(chan struct{}), status: map[int]int{}, waited: map[int]chan struct{}{},
	}, nil
}

// close ends what has no successor.
func (in *initial) close() {
	if in != nil {
		_ = in.ours.Close()
		_ = in.theirs.Close()
	}
}

// announce tells pid 1 that this process owns the service.
func announce(c *scm.Conn) {
	if c != nil {
		_ = c.Send([]byte{1}) // if it is not there any more, neither are we
	}
}

// follow hears who owns the service, until nobody is left.
func (in *initial) follow() {
	_ = in.theirs.Close()
	go func() {
		defer close(in.ended)
		defer in.ours.Close()
		for {
			m, err := in.ours.Receive(make([]byte, 1), 0)
			if err != nil {
				return
			}
			in.heard(m.Sender)
		}
	}()
}

// heard makes the sender the one that signals go to, and takes it over.
func (in *initial) heard(s *credentials.Sender) {
	if s == nil || s.PID == 0 {
		_ = s.Close()
		return // not in this pid namespace: it does not need us
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	_ = in.live.Close()
	in.live, in.pid = s.Process, s.PID
	delete(in.status, s.PID) // of another, that had the pid before
	// The one before was told to stop when its handoff was committed already: it did as it was told, and is not the last.
	in.pending = append(in.told, in.pending...)
	in.told = nil
	in.deliver()
}

// deliver passes on the signals that wait, if it is known to whom: the message brings no pidfd to a process whose
// descriptor table is full, as that of one that drains may be.
func (in *initial) deliver() {
	if in.live == nil && in.pid != 0 {
		in.live, _ = credentials.OpenProcess(in.pid) // our own namespace's, and we reap it
	}
	if in.live == nil {
		return
	}
	// To one that has ended, and whose successor's word is on its way, nothing is passed on. That gets it.
	in.pending = slices.DeleteFunc(in.pending, func(sig syscall.Signal) bool {
		if errors.Is(in.live.Signal(sig), os.ErrProcessDone) {
			return false
		}
		if slices.Contains(in.stops, os.Signal(sig)) && !slices.Contains(in.told, sig) {
			in.told = append(in.told, sig)
		}
		return true
	})
}

// forward passes a signal on to the generation that serves.
func (in *initial) forward(got os.Signal) {
	sig, ok := got.(syscall.Signal)
	if !ok {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pending = append(in.pending, sig)
	in.deliver()
}

// await says that somebody waits for a child. What it gets it passes to the result.
func (in *initial) await(pid int) func(*os.ProcessState) {
	if in == nil {
		return func(*os.ProcessState) {}
	}
	waited := make(chan struct{})
	in.mu.Lock()
	defer in.mu.Unlock()
	in.waited[pid] = waited
	return func(s *os.ProcessState) {
		defer close(waited)
		if s != nil {
			in.reaped(pid, s.Sys().(syscall.WaitStatus))
		}
	}
}

func (in *initial) reaped(pid int, ws syscall.WaitStatus) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.status[pid] = exitCode(ws)
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// stay returns, when all generations have ended, the exit code of the last that served. It calls leave when the
// signals are its own.
func (in *initial) stay(leave func()) (code int) {
	signals := make(chan os.Signal, 16)
	ossignal.Notify(signals)
	defer ossignal.Stop(signals)
	leave()
	ended := in.ended
	for {
		in.reap()
		select {
		case got := <-signals:
			switch got {
			case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE: // ours; the last two are the Go runtime's
			default:
				in.forward(got)
			}
		case <-ended:
			return in.last(signals)
		}
	}
}

// reap takes the status of all children that have ended, those that were others' too.
func (in *initial) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || pid <= 0:
			return
		}
		in.reaped(pid, ws)
	}
}

// last returns the exit code of the generation that served last, when all have closed their files; 1 if nobody can tell.
// For a moment the parent of that one may be another, which is about to end too; then it is ours to reap.
func (in *initial) last(signals <-chan os.Signal) int {
	defer func() { _ = in.live.Close() }()
	overdue := time.After(deathNotice)
	for {
		if code, ok := in.code(); ok {
			return code
		}
		select {
		case <-signals: // SIGCHLD, or one that comes too late for anybody
		case <-overdue:
			return 1
		}
	}
}

// code is the exit code of the generation that served last, if it is known once that has ended and been reaped.
func (in *initial) code() (code int, known bool) {
	in.mu.Lock()
	in.deliver()
	live, pid, waited := in.live, in.pid, in.waited[in.pid]
	in.mu.Unlock()
	if live != nil {
		_ = live.Wait(context.Background())
	}
	in.reap()
	if waited != nil {
		<-waited
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if code, known = in.status[pid]; known || live == nil {
		return code, known
	}
	// Somebody else's child, who has reaped it; Linux 6.15 can tell.
	info, err := live.Info()
	if err != nil || !info.Exited {
		return 1, false
	}
	return exitCode(info.Status), true
}
