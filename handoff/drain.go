package handoff

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// A Server serves listeners of the service: an *http.Server, or one that is nothing but an accept loop.
// When the service has moved on, or ends, Accept returns net.ErrClosed, and the drain waits until
// all connections that came from the listener are closed.
type Server interface {
	// Serve accepts from ln until Accept fails.
	Serve(ln net.Listener) error
}

// A Drainer is a [Server] that can do something to have its connections end soon.
type Drainer interface {
	Server

	// Drain is called once, when nothing is accepted any more. It lets what is under way come to its
	// end and starts nothing new; it need not wait for it. When ctx ends the connections are cut.
	Drain(ctx context.Context) error
}

// A CutError is the error of a drain whose time was over before all connections had ended.
type CutError struct {
	Cut int   // so many connections were cut
	Err error // of the context
}

func (e *CutError) Error() string {
	s := "s"
	if e.Cut == 1 {
		s = ""
	}
	return fmt.Sprintf("handoff: %d connection%s cut at the end of the drain: %v", e.Cut, s, e.Err)
}

func (e *CutError) Unwrap() error { return e.Err }

// drained is what a drain had to close by itself.
type drained struct {
	idle int // connections without a request that were silent for all of their grace
	cut  int // connections that were open when ctx ended
}

// A draining is one Server and the listeners that it serves.
type draining interface {
	// add says that the server serves l too, under a listener of its own such as that of crypto/tls.
	add(l *listener)

	// serve serves until the listener is released. It returns nil then.
	serve(ln net.Listener) error

	// drain releases the listeners, which were paused or emptied, and returns when all their connections
	// are closed. When ctx ends it cuts the rest and returns a *CutError.
	drain(ctx context.Context, grace time.Duration) (drained, error)
}

// prepare puts the drain's hooks before those of an *http.Server, which must not serve yet: it reads
// them without a lock.
func prepare(srv Server) draining {
	if h, ok := srv.(*http.Server); ok {
		return newHTTPDrain(h)
	}
	return &serverDrain{srv: srv}
}

// listeners are those that a server serves.
type listeners struct {
	mu  sync.Mutex
	all []*listener
}

func (s *listeners) add(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.all {
		if have == l {
			return
		}
	}
	s.all = append(s.all, l)
}

func (s *listeners) list() []*listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*listener(nil), s.all...)
}

// release releases all and has change told of their connections until stop.
func (s *listeners) release(ctx context.Context, change chan struct{}) (stop func()) {
	var stops []func()
	for _, l := range s.list() {
		stops = append(stops, l.watch(change))
		_ = l.pause(ctx) // so that no connection comes that is not counted
		_ = l.release()
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// open returns the connections that are open.
func (s *listeners) open() (all []*conn) {
	for _, l := range s.list() {
		all = append(all, l.open()...)
	}
	return all
}

// count returns how many connections are open.
func (s *listeners) count() (n int) {
	for _, l := range s.list() {
		n += l.count()
	}
	return n
}

// cut closes what is open, and returns how many connections that were. What two drains cut at once is
// counted by one of them.
func (s *listeners) cut() (n int) {
	for _, c := range s.open() {
		if c.listener.remove(c) {
			n++
		}
		_ = c.Close()
	}
	return n
}

// A serverDrain waits for connections of which it knows nothing.
type serverDrain struct {
	srv Server
	listeners
}

func (d *serverDrain) serve(ln net.Listener) error {
	if l, ok := ln.(*listener); ok {
		d.add(l)
	}
	return unlessClosed(d.srv.Serve(ln))
}

func unlessClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (d *serverDrain) drain(ctx context.Context, _ time.Duration) (drained, error) {
	change := make(chan struct{}, 1)
	defer d.release(ctx, change)()
	asked := make(chan error, 1)
	if s, ok := d.srv.(Drainer); ok {
		go func() { asked <- s.Drain(ctx) }()
	} else {
		asked <- nil
	}
	var err error
	for done := false; ; {
		if done && d.count() == 0 {
			return drained{}, err
		}
		select {
		case <-change:
		case err = <-asked:
			done, asked = true, nil
			if ctx.Err() != nil {
				err = nil // no news
			}
		case <-ctx.Done():
			return wasCut(ctx, drained{cut: d.cut()})
		}
	}
}

// wasCut makes the error of a drain at the end of its time.
func wasCut(ctx context.Context, result drained) (drained, error) {
	if result.cut == 0 {
		return result, nil
	}
	return result, &CutError{Cut: result.cut, Err: ctx.Err()}
}

// An httpDrain ends an http.Server without losing a request. Shutdown alone loses some: it closes idle
// connections while a request may be on its way to them, and a connection whose first request is
// read after it began is closed without an answer; SetKeepAlivesEnabled(false) does the former too.
//
// So it answers the next request of each connection with "Connection: close", which tells the client
// not to send another one there, and calls Shutdown when only HTTP/2 is left: to that Shutdown says
// GOAWAY with the last request that will be answered, and waits for those answers. A client that
// pipelines finds that answers are missing after the one that says close, and sends those requests
// again (RFC 9112, 9.3.2).
//
// With a successor that wants them, connections move to it instead: see mover.
//
// Hijacked connections are their handler's; the drain waits for them.
type httpDrain struct {
	srv *http.Server
	listeners
	closing atomic.Bool // answers say close, of connections that do not move
	mover   atomic.Pointer[mover]
	change  chan struct{} // once closing

	mu      sync.Mutex
	foreign map[net.Conn]*httpConn // that are not from our listeners
}

// An httpConn is a connection as http.Server tells of it.
type httpConn struct {
	drain    *httpDrain
	conn     net.Conn // a *tls.Conn, or what is in sock
	sock     *conn    // nil if it is not from one of our listeners
	state    atomic.Int32
	since    atomic.Int64 // the state or the last answer, after programStart
	requests atomic.Int32 // in the handler: http.Server calls a connection idle whose pipelined request it answers
	http2    atomic.Bool
}

type httpConnKey struct{}

func newHTTPDrain(srv *http.Server) *httpDrain {
	d := &httpDrain{srv: srv, change: make(chan struct{}, 1), foreign: map[net.Conn]*httpConn{}}
	handler, hook, connContext := srv.Handler, srv.ConnState, srv.ConnContext
	if handler == nil {
		handler = http.DefaultServeMux
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(httpConnKey{}).(*httpConn)
		if ok {
			if r.ProtoMajor == 2 {
				c.http2.Store(true)
			}
			c.requests.Add(1)
			defer func() {
				c.since.Store(int64(time.Since(programStart)))
				c.requests.Add(-1)
			}()
		}
		// With an upgrade the connection leaves HTTP, and a proxy's "Connection: Upgrade" would follow ours.
		if d.closing.Load() && r.Header.Get("Upgrade") == "" && !(ok && c.moves()) {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
	// http.Server calls it with each connection before anything else.
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, c)
		}
		return context.WithValue(ctx, httpConnKey{}, d.begin(c))
	}
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		d.track(c, s)
		if hook != nil {
			hook(c, s)
		}
	}
	return d
}

func (d *httpDrain) serve(ln net.Listener) error {
	if l, ok := ln.(*listener); ok {
		l.plain.Store(true)
		d.add(l)
	}
	return unlessClosed(d.srv.Serve(ln))
}

// serveTLS is serve as http.Server's ServeTLS.
func (d *httpDrain) serveTLS(ln *listener, certFile, keyFile string) error {
	d.add(ln)
	return unlessClosed(d.srv.ServeTLS(ln, certFile, keyFile))
}

// ours looks for the listener's connection below c.
func ours(c net.Conn) *conn {
	for {
		switch t := c.(type) {
		case *conn:
			return t
		case interface{ NetConn() net.Conn }: // *tls.Conn
			c = t.NetConn()
		default:
			return nil
		}
	}
}

func (d *httpDrain) begin(c net.Conn) *httpConn {
	h := &httpConn{drain: d, conn: c, sock: ours(c)}
	h.set(http.StateNew)
	if h.sock != nil {
		d.add(h.sock.listener)
		h.sock.served.Store(h)
		return h
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.foreign[c] = h
	return h
}

func (h *httpConn) set(s http.ConnState) {
	h.since.Store(int64(time.Since(programStart)))
	h.state.Store(int32(s))
}

// track is the ConnState hook.
func (d *httpDrain) track(c net.Conn, s http.ConnState) {
	if h := d.find(c); h != nil {
		if t, ok := c.(*tls.Conn); ok && (s == http.StateActive || s == http.StateIdle) {
			// The handshake, whose lock this takes, is over.
			h.http2.Store(t.ConnectionState().NegotiatedProtocol == "h2")
		}
		h.set(s)
		if s == http.StateIdle && h.sock != nil {
			h.sock.answered()
		}
		if h.sock == nil && (s == http.StateClosed || s == http.StateHijacked) {
			d.mu.Lock()
			delete(d.foreign, c)
			d.mu.Unlock()
		}
	}
	if d.closing.Load() {
		notify(d.change)
	}
}

func (d *httpDrain) find(c net.Conn) *httpConn {
	if sock := ours(c); sock != nil {
		return sock.served.Load()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.foreign[c]
}

// waitsForGoAway reports whether Shutdown ends the connection in good order, or leaves it alone.
func (h *httpConn) waitsForGoAway() bool {
	return h != nil && (h.http2.Load() || h.sock != nil && h.sock.http2.Load() ||
		http.ConnState(h.state.Load()) == http.StateHijacked)
}

// moves reports whether the connection will move to the successor, at the end of this answer.
func (h *httpConn) moves() bool {
	m := h.drain.mover.Load()
	return m != nil && h.plain() && h.sock.halt.movable() && m.wants(h.sock)
}

// plain reports whether what the server reads is what the kernel has: HTTP/1.1 without TLS, and without a
// connection of the program's own in between.
func (h *httpConn) plain() bool { return h.sock != nil && h.conn == h.sock && !h.waitsForGoAway() }

// newGrace is how long a connection may be silent that has not said anything yet, at least. Browsers
// open such connections before they need them. It is Shutdown's own time.
const newGrace = 5 * time.Second

// silent reports whether the connection had its grace, without a request. A connection is idle in the
// eyes of http.Server until it has read a whole request header, so half a header would pass for
// silence by the state alone.
func (h *httpConn) silent(start time.Time, grace time.Duration) bool {
	switch http.ConnState(h.state.Load()) {
	case http.StateNew:
		grace = max(grace, newGrace)
	case http.StateIdle:
	default:
		return false
	}
	if h.requests.Load() > 0 || h.waitsForGoAway() {
		return false
	}
	limit := time.Now().Add(-grace)
	if !start.Before(limit) || !programStart.Add(time.Duration(h.since.Load())).Before(limit) {
		return false
	}
	// After a SIGSTOP a request may be waiting longer than anybody has looked.
	return h.sock == nil || !h.sock.heardSince(limit) && !sysfd.Readable(h.sock)
}

// drain waits for a new connection until it has asked and was answered. A kept-alive one gets its next
// request answered; only if it stays silent for grace is it closed, and so the quietest go first.
// That is a guess: its client may be sending at this moment, and no server of HTTP/1.1 can know.
func (d *httpDrain) drain(ctx context.Context, grace time.Duration) (result drained, err error) {
	start := time.Now()
	d.closing.Store(true)
	defer d.release(ctx, d.change)()
	look := time.NewTicker(max(grace/8, time.Millisecond))
	defer look.Stop()
	var shutdown chan error
	for {
		if shutdown == nil && !d.needed() {
			shutdown = make(chan error, 1)
			go func() { shutdown <- d.srv.Shutdown(ctx) }()
		}
		ended := shutdown
		if d.count() > 0 {
			ended = nil // hijacked ones, which Shutdown leaves alone
		}
		select {
		case err := <-ended:
			if ctx.Err() != nil {
				err = nil // nothing was cut
			}
			return result, err
		case <-d.change:
		case <-look.C:
			result.idle += d.closeSilent(start, grace)
		case <-ctx.Done():
			return d.cut(ctx, result)
		}
	}
}

// needed reports whether there is a connection that Shutdown would harm.
func (d *httpDrain) needed() bool {
	for _, l := range d.list() {
		if l.any(func(c *conn) bool { return !c.served.Load().waitsForGoAway() }) {
			return true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.foreign {
		if !h.waitsForGoAway() {
			return true
		}
	}
	return false
}

func (d *httpDrain) closeSilent(start time.Time, grace time.Duration) (n int) {
	for _, h := range d.all() {
		if h.silent(start, grace) {
			h.set(http.StateClosed) // once
			_ = h.conn.Close()
			n++
		}
	}
	return n
}

func (d *httpDrain) all() (all []*httpConn) {
	for _, c := range d.open() {
		if h := c.served.Load(); h != nil {
			all = append(all, h)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.foreign {
		all = append(all, h)
	}
	return all
}

func (d *httpDrain) cut(ctx context.Context, result drained) (drained, error) {
	result.cut = d.listeners.cut()
	d.mu.Lock()
	result.cut += len(d.foreign)
	d.mu.Unlock()
	_ = d.srv.Close()
	return wasCut(ctx, result)
}
