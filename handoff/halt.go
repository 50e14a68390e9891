package handoff

import (
	"net"
	"os"
	"sync"
	"time"

	"github.com/pkg/errors"
)

// A halt is where a connection stops between two requests, so that it can move to the successor: its
// reader waits, nothing of it is in anybody's buffer, and what the client sends stays in the kernel.
//
// Nothing but the reader's own call knows that place. http.Server tells that a connection is idle, sets
// one deadline, and reads into all of its buffer: a smaller room, a second deadline or a byte that came since
// then mean that part of the next request has been read.
type halt struct {
	mu        sync.Mutex
	room      int       // of the first Read: all of the server's buffer; less than leastRoom is not all
	silent    bool      // nothing was read since the last answer, or ever
	deadlines int       // that were set since then
	deadline  time.Time // the server's own
	reading   bool      // from a place where it may stop
	asked     *mover    // to stop, by it: the socket's deadline is past
	stopped   bool
	moved     bool
	closed    bool
	change    bell
}

// errMoved looks like a deadline, because http.Server answers 400 to anything else, on a connection that is
// not its own any more.
var errMoved error = &net.OpError{Op: "read", Err: movedError{}}

type movedError struct{}

func (movedError) Error() string   { return "the connection has moved to the successor" }
func (movedError) Timeout() bool   { return true }
func (movedError) Temporary() bool { return true }
func (movedError) Unwrap() error   { return os.ErrDeadlineExceeded }

// answered says that an answer is through and the connection idle.
func (c *conn) answered() {
	h := &c.halt
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent, h.deadlines = true, 0
	c.late = late{}
}

// leastRoom is more than http.Server reads at first to see whether a client speaks HTTP/2 without TLS. After
// such a read nobody can tell from the next ones what is left in its buffer.
const leastRoom = 512

// movable reports whether the connection will come to a place where it may stop.
func (h *halt) movable() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.room >= leastRoom
}

// setReadDeadline keeps t for a connection that stops, whose own is in use.
func (c *conn) setReadDeadline(t time.Time) error {
	h := &c.halt
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadlines++
	h.deadline = c.later(t)
	if h.asked != nil || h.stopped {
		return nil
	}
	return c.stream.SetReadDeadline(h.deadline)
}

// shut says that the connection is closed.
func (h *halt) shut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.change.ring()
}

// read calls f, which reads into size bytes, and lets the connection leave before it or instead of it, if
// somebody wants it and it is at a place where it may. It returns errMoved when the connection has left.
func (c *conn) read(size int, f func() (int, error)) (int, error) {
	h := &c.halt
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.room == 0 {
		h.room = size
	}
	for {
		if h.moved {
			return 0, errMoved
		}
		fresh := c.heard.Load() < 0
		may := h.room >= leastRoom && size == h.room && (fresh || h.silent && h.deadlines <= 1)
		if m := c.mover(); may && m != nil {
			if c.leaves(m) {
				return 0, errMoved
			}
			_ = c.stream.SetReadDeadline(h.deadline) // one that was set meanwhile
		}
		h.reading = may
		h.mu.Unlock()
		n, err := f()
		h.mu.Lock()
		h.reading = false
		if n > 0 {
			h.silent = false
			c.hear(fresh)
		}
		m := h.asked
		if m == nil {
			return n, err
		}
		h.asked = nil
		woken := n == 0 && errors.Is(err, os.ErrDeadlineExceeded) // and no request was quicker
		if woken && c.leaves(m) {
			return 0, errMoved
		}
		_ = c.stream.SetReadDeadline(h.deadline)
		if !woken {
			return n, err
		}
	}
}

// leaves offers the connection to m, if there is one, and waits until it is decided whether it leaves.
func (c *conn) leaves(m *mover) bool {
	h := &c.halt
	if m == nil || h.closed || !m.stopped(c) {
		return false
	}
	h.stopped = true
	for !h.moved && !h.closed && h.stopped {
		change := h.change.wait()
		h.mu.Unlock()
		<-change
		h.mu.Lock()
	}
	h.stopped = false
	return h.moved
}

// ask has a reader that waits for a request stop, and reports whether there is one. If a request is quicker,
// the connection stops behind its answer.
func (c *conn) ask(m *mover) bool {
	h := &c.halt
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.reading || h.asked != nil || h.closed || c.mover() != m {
		return false
	}
	h.asked = m
	_ = c.stream.SetReadDeadline(past)
	return true
}

// goOn lets a connection that has stopped stay.
func (c *conn) goOn() {
	h := &c.halt
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = false
	h.change.ring()
}

// leave closes this process's copy of a connection that is the successor's, without shutting it down.
func (c *conn) leave() {
	h := &c.halt
	h.mu.Lock()
	h.moved = true
	h.change.ring()
	h.mu.Unlock()
	_ = c.Close()
}
