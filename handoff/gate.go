package handoff

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pkg/errors"
)

// A gate stands before the Accepts or Reads of one socket. While it is shut they wait at it, without
// an error: http.Server ends on one, or sleeps. What arrives meanwhile waits in the kernel's queue,
// which all processes that hold the socket share.
//
// One that is in its system call when the gate is shut is woken by a deadline that is past, which ends it
// only when it has nothing to return: nothing is taken from the queue and dropped.
type gate struct {
	op          string                // accept or read
	addr        net.Addr              // for errors
	setDeadline func(time.Time) error // of the socket
	close       func() error          // closes the socket

	mu       sync.Mutex
	shut     bool
	closed   bool
	called   bool      // see call
	inside   int       // goroutines between enter and leave
	shuts    uint64    // how often it was shut,
	calls    uint64    // and called
	deadline time.Time // the owner's own
	change   bell
	waits    chan struct{} // see waiting
	gone     chan struct{} // see released
}

var past = time.Unix(1, 0)

// errCalled ends a pass: there is something for its caller elsewhere.
var errCalled = errors.New("handoff: called away")

// init prepares a new gate. The deadline is the socket's, or it may be past from a former owner's pause
// in this process.
func (g *gate) init(shut bool) {
	g.shut = shut
	g.waits, g.gone = make(chan struct{}), make(chan struct{})
	if shut {
		_ = g.setDeadline(past)
	}
}

// A visit is when a system call began.
type visit struct{ shuts, calls uint64 }

// pass calls f, which makes the system call, when the gate is open, and again if the gate was shut meanwhile.
func (g *gate) pass(f func() error) error {
	for {
		began, err := g.enter()
		if err != nil {
			return err
		}
		if err = g.leave(began, f()); !errors.Is(err, errShut) {
			return err
		}
	}
}

// errShut is for pass alone.
var errShut = errors.New("handoff: the gate was shut")

func (g *gate) enter() (visit, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		switch {
		case g.called:
			return visit{}, errCalled
		case g.closed:
			return visit{}, g.fail(net.ErrClosed)
		case !g.shut:
			g.inside++
			select {
			case <-g.waits:
			default:
				close(g.waits)
			}
			return visit{g.shuts, g.calls}, nil
		case !g.deadline.IsZero() && !time.Now().Before(g.deadline):
			return visit{}, g.fail(os.ErrDeadlineExceeded)
		}
		g.await(g.deadline)
	}
}

// await waits, without the lock, for a change or for the deadline.
func (g *gate) await(deadline time.Time) {
	change := g.change.wait()
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		timeout = t.C
	}
	g.mu.Unlock()
	defer g.mu.Lock()
	select {
	case <-change:
	case <-timeout:
	}
}

// leave returns err, or what it only stands for: the gate was shut, or called its visitors away.
func (g *gate) leave(began visit, err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.change.ring()
	late := errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case late && g.calls != began.calls, err != nil && g.closed && g.called:
		return errCalled // or another visitor was, and has answered
	case late && g.closed:
		return g.fail(net.ErrClosed)
	case late && g.shuts != began.shuts:
		return errShut
	}
	return err
}

// call ends every pass with errCalled, those to come as well, until answered. It reports false, and does
// nothing, when the gate was released: nobody need come to it any more.
func (g *gate) call() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.called = true
	g.calls++
	_ = g.setDeadline(past)
	g.change.ring()
	return true
}

func (g *gate) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.called = false
	if !g.shut && !g.closed {
		_ = g.setDeadline(g.deadline)
	}
}

func (g *gate) fail(err error) error {
	e := &net.OpError{Op: g.op, Addr: g.addr, Err: err}
	if g.addr != nil {
		e.Net = g.addr.Network()
	}
	return e
}

// pause shuts the gate and returns when nobody is in a system call, at once if nobody was. When ctx
// ends first it returns its error; the gate is shut then too.
func (g *gate) pause(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut && !g.closed {
		g.shut = true
		g.shuts++
		g.renew()
		_ = g.setDeadline(past)
	}
	for g.inside > 0 && !g.closed {
		change := g.change.wait()
		g.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if err := ctx.Err(); err != nil && g.inside > 0 {
			return err
		}
	}
	return nil
}

// renew makes waiting tell about the next time.
func (g *gate) renew() {
	select {
	case <-g.waits:
		g.waits = make(chan struct{})
	default:
	}
}

// resume opens the gate.
func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !g.shut {
		return
	}
	g.shut = false
	if !g.called {
		_ = g.setDeadline(g.deadline)
	}
	g.change.ring()
}

// release opens the gate for good and closes this process's copy of the socket, whose other copies
// live on. It works twice.
func (g *gate) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	close(g.gone)
	g.change.ring()
	return g.close()
}

// waiting returns a channel that is closed as soon as somebody waits in a system call for what comes
// to the open gate. A pause begins anew: ask again after it.
func (g *gate) waiting() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waits
}

// released returns a channel that is closed by release, whoever called it.
func (g *gate) released() <-chan struct{} { return g.gone }

// setOwnDeadline sets the deadline that the owner sees. At a shut gate it is kept here.
func (g *gate) setOwnDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return g.fail(net.ErrClosed)
	}
	g.deadline = t
	if g.shut || g.called {
		g.change.ring()
		return nil
	}
	return g.setDeadline(t)
}

// A bell wakes all who wait for a change of what a mutex guards. It is used under that mutex, and costs
// nothing while nobody waits.
type bell struct{ ringing chan struct{} }

func (b *bell) wait() <-chan struct{} {
	if b.ringing == nil {
		b.ringing = make(chan struct{})
	}
	return b.ringing
}

func (b *bell) ring() {
	if b.ringing != nil {
		close(b.ringing)
		b.ringing = nil
	}
}
