package handoff

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// A listener is a socket whose Accept can be made to wait, and that knows its open connections. It
// never shuts its socket down (shutdown(2) reaches the successor's copy) nor unlinks its path.
type listener struct {
	name string
	ln   acceptor
	gate gate

	plain atomic.Bool // served by an http.Server as it is, without TLS

	mu       sync.Mutex
	conns    map[*conn]struct{}
	watchers []chan struct{}
	arrived  []*conn // from the predecessor, not yet accepted
}

// acceptor is what *net.TCPListener and *net.UnixListener have in common.
type acceptor interface {
	net.Listener
	syscall.Conn
	SetDeadline(time.Time) error
}

// newListener takes ln over, which is a *net.TCPListener or a *net.UnixListener. Parked, it accepts
// from the first resume on.
func newListener(name string, ln net.Listener, parked bool) (*listener, error) {
	a, ok := ln.(acceptor)
	if u, unix := ln.(*net.UnixListener); unix {
		u.SetUnlinkOnClose(false)
	} else if _, tcp := ln.(*net.TCPListener); !ok || !tcp {
		return nil, errors.WithMessagef(ErrItem, "%q is a %T", name, ln)
	}
	l := &listener{name: name, ln: a, conns: map[*conn]struct{}{}}
	l.gate = gate{op: "accept", addr: ln.Addr(), setDeadline: a.SetDeadline, close: a.Close}
	l.gate.init(parked)
	return l, nil
}

// Accept gives the next connection to the caller, one that the predecessor has passed on first. It counts as
// open until it is closed.
func (l *listener) Accept() (c net.Conn, err error) {
	for {
		err = l.gate.pass(func() error {
			got, err := l.ln.Accept()
			if err != nil {
				return err
			}
			// Inside the gate, so that a pause has them all.
			c = l.add(newConn(l, got.(stream)))
			return nil
		})
		if !errors.Is(err, errCalled) {
			break
		}
		if arrived := l.nextArrived(); arrived != nil {
			return arrived, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// arrive has Accept return c, and takes it over. It reports false if the listener was released.
func (l *listener) arrive(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gate.call() {
		return false
	}
	l.arrived = append(l.arrived, c)
	l.conns[c] = struct{}{}
	l.changed()
	return true
}

// nextArrived returns nil when there is none, or another Accept was quicker.
func (l *listener) nextArrived() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var c *conn
	if len(l.arrived) > 0 {
		c, l.arrived = l.arrived[0], l.arrived[1:]
	}
	if len(l.arrived) == 0 {
		l.arrived = nil
		l.gate.answered()
	}
	return c
}

// Addr returns the socket's address.
func (l *listener) Addr() net.Addr { return l.ln.Addr() }

// Close closes this process's copy of the socket and ends Accept with net.ErrClosed.
func (l *listener) Close() error { return l.release() }

// SyscallConn is for Control. To accept(2) with it passes the gate by.
func (l *listener) SyscallConn() (syscall.RawConn, error) { return l.ln.SyscallConn() }

// pause lets nobody accept and returns when nobody does. All connections that were accepted are in
// count by then.
func (l *listener) pause(ctx context.Context) error { return l.gate.pause(ctx) }

func (l *listener) resume() { l.gate.resume() }

func (l *listener) release() error { return l.gate.release() }

func (l *listener) waiting() <-chan struct{} { return l.gate.waiting() }

func (l *listener) released() <-chan struct{} { return l.gate.released() }

// empty is pause for a process without a successor: what is in the kernel's queue is accepted first,
// until the queue is seen empty while nobody accepts, or until ctx ends, whose error it returns then; clients
// that never rest would keep it here for ever. Somebody must be accepting. What comes between the
// last look and the release is reset, as by every server that ends.
func (l *listener) empty(ctx context.Context) error {
	look := time.NewTicker(time.Millisecond) // somebody may have come to Accept and gone without a connection
	defer look.Stop()
	change := make(chan struct{}, 1)
	defer l.watch(change)()
	for {
		if err := l.pause(ctx); err != nil {
			return err
		}
		if !sysfd.Readable(l.ln) || l.isReleased() {
			return nil
		}
		l.resume()
		for sysfd.Readable(l.ln) && !l.isReleased() {
			select {
			case <-change:
			case <-look.C:
			case <-ctx.Done():
				_ = l.pause(context.WithoutCancel(ctx))
				return ctx.Err()
			}
		}
	}
}

func (l *listener) isReleased() bool {
	select {
	case <-l.gate.gone:
		return true
	default:
		return false
	}
}

// count returns how many connections are open.
func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// watch has change told, which has room for one, when a connection came or was closed, until stop.
func (l *listener) watch(change chan struct{}) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = append(l.watchers, change)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watchers = slices.DeleteFunc(l.watchers, func(w chan struct{}) bool { return w == change })
	}
}

func (l *listener) changed() {
	for _, w := range l.watchers {
		notify(w)
	}
}

// notify sends to a channel that has room for one.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// open returns the connections that are open.
func (l *listener) open() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		all = append(all, c)
	}
	return all
}

// any reports whether f holds for a connection that is open.
func (l *listener) any(f func(c *conn) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if f(c) {
			return true
		}
	}
	return false
}

func (l *listener) add(c *conn) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	l.changed()
	return c
}

// remove lets c count no longer, and reports whether it did.
func (l *listener) remove(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, counted := l.conns[c]
	delete(l.conns, c)
	l.changed()
	return counted
}
