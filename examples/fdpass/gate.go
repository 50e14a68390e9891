package main

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// A gate is a listener whose Accept can be made to wait: a successor is about to accept from the
// same socket. Accept returns no error then, because http.Server would end or sleep on one. What
// arrives meanwhile waits in the kernel's accept queue, which all processes that hold the socket
// share.
//
// The socket is never shut down: shutdown(2) would reach the successor's copy as well.
type gate struct {
	ln *net.TCPListener

	mu       sync.Mutex
	change   sync.Cond
	shut     bool
	closed   bool
	parked   bool      // Accept waits at the gate, or has ended
	emptying time.Time // if set: until then a shut gate lets pass what is queued already
}

var past = time.Unix(1, 0)

// newGate takes ln over.
func newGate(ln *net.TCPListener) *gate {
	g := &gate{ln: ln}
	g.change.L = &g.mu
	return g
}

// Accept gives the next connection to the caller.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.ln.AcceptTCP()
		if timedOut(err) && g.isEmptying() {
			// A deadline that is past ends Accept without a look at the queue. Give it time for one.
			_ = g.ln.SetDeadline(time.Now().Add(5 * time.Millisecond))
			c, err = g.ln.AcceptTCP()
			_ = g.ln.SetDeadline(past)
			if timedOut(err) {
				g.emptied()
			}
		}
		if err == nil {
			return newHeardConn(c), nil
		}
		// The deadline ends an accept(2) that waits only when it has nothing to return, so no
		// connection was taken from the queue and dropped.
		if !timedOut(err) {
			return nil, err
		}
		if !g.park() {
			return nil, net.ErrClosed
		}
	}
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// park waits while the gate is shut, and reports false if it was closed for good.
func (g *gate) park() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut && g.emptying.IsZero() && !g.closed {
		g.parked = true
		g.change.Broadcast()
		g.change.Wait()
	}
	g.parked = g.closed
	return !g.closed
}

// pause shuts the gate and returns when Accept waits there, so something must be serving it. The one
// goroutine that accepts has then told http.Server's ConnState about every connection that it got.
func (g *gate) pause() { g.stop(time.Time{}) }

// empty is pause for a process without a successor: it accepts what is queued first, until the
// queue is empty or a second has passed.
func (g *gate) empty() { g.stop(time.Now().Add(time.Second)) }

func (g *gate) stop(emptying time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.emptying = true, emptying
	_ = g.ln.SetDeadline(past)
	g.change.Broadcast()
	for !g.parked || !g.emptying.IsZero() && !g.closed {
		g.change.Wait()
	}
}

// resume opens the gate.
func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.emptying = false, time.Time{}
	_ = g.ln.SetDeadline(time.Time{})
	g.change.Broadcast()
}

// Close closes this process's copy of the socket and ends Accept with net.ErrClosed. It works twice.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed, g.parked = true, true
	g.change.Broadcast()
	return g.ln.Close()
}

// Addr returns the socket's address.
func (g *gate) Addr() net.Addr { return g.ln.Addr() }

func (g *gate) isEmptying() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Now().After(g.emptying) {
		g.emptying = time.Time{}
	}
	return !g.emptying.IsZero()
}

func (g *gate) emptied() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.emptying = time.Time{}
}

// A heardConn knows when its client was last heard. http.Server calls a connection idle until it has
// read a whole request header, so by the state alone half a header would pass for silence.
type heardConn struct {
	*net.TCPConn // with CloseWrite and ReadFrom, which http.Server looks for
	heard        atomic.Int64
}

func newHeardConn(c *net.TCPConn) *heardConn { return &heardConn{TCPConn: c} }

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 {
		c.heard.Store(int64(time.Since(begin)))
	}
	return n, err
}

// silence returns for how long nothing was heard.
func (c *heardConn) silence() time.Duration { return time.Since(begin) - time.Duration(c.heard.Load()) }

var begin = time.Now() // on the monotonic clock
