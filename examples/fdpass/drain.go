package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// A drainer ends an http.Server without losing a request. Shutdown alone loses some: it closes idle
// connections while a request may be on its way to them, and a connection whose first request is
// read after it began is closed without an answer; SetKeepAlivesEnabled(false) does the former too.
//
// So a drainer answers each connection's next request with "Connection: close", which tells the
// client not to send another one there, and calls Shutdown when no connection is left.
type drainer struct {
	gate    *gate
	srv     *http.Server
	closing atomic.Bool // answers say close

	mu   sync.Mutex
	open map[net.Conn]connState
	gone chan struct{} // a connection was closed
}

type connState struct {
	http.ConnState
	since time.Time
}

// drained is what a drain had to close by itself.
type drained struct {
	idle int // kept-alive connections that were silent for all of their grace
	cut  int // connections that were cut at the deadline: new ones, or with a request under way
}

// newDrainer takes ln over and puts itself before srv's Handler and ConnState, so srv must not
// serve yet.
func newDrainer(srv *http.Server, ln *net.TCPListener) *drainer {
	d := &drainer{gate: newGate(ln), srv: srv, open: map[net.Conn]connState{}, gone: make(chan struct{}, 1)}
	handler, hook := srv.Handler, srv.ConnState
	if handler == nil {
		handler = http.DefaultServeMux
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.closing.Load() {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
	srv.ConnState = func(c net.Conn, s http.ConnState) {
		d.track(c, s)
		if hook != nil {
			hook(c, s)
		}
	}
	return d
}

// serve serves until the drain begins. It returns nil then.
func (d *drainer) serve() error {
	err := d.srv.Serve(d.gate)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain closes this process's copy of the listener and returns when all connections have ended.
// Call it after the gate's pause or empty: all accepted connections are counted here then.
//
// A new connection is waited for until it has asked and was answered. A kept-alive one gets its
// next request answered; only if it stays silent for grace is it closed, and so the quietest go
// first. That is a guess: its client may be sending at this moment, and no server of HTTP/1.1 can
// know. When ctx is done the rest is cut.
func (d *drainer) drain(ctx context.Context, grace time.Duration) (drained, error) {
	var result drained
	start := time.Now()
	d.closing.Store(true)
	_ = d.gate.Close()
	look := time.NewTicker(max(grace/8, time.Millisecond))
	defer look.Stop()
	for d.count() > 0 {
		select {
		case <-d.gone:
		case <-look.C:
			result.idle += d.closeIdle(start, grace)
		case <-ctx.Done():
			result.cut = d.count()
			return result, d.srv.Close()
		}
	}
	return result, d.srv.Shutdown(ctx)
}

// closeIdle closes the connections that were silent for grace since their last answer and start.
func (d *drainer) closeIdle(start time.Time, grace time.Duration) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, s := range d.open {
		if s.ConnState != http.StateIdle || time.Since(s.since) < grace || time.Since(start) < grace {
			continue
		}
		if h, ok := c.(*heardConn); ok && h.silence() < grace {
			continue // part of a request has come
		}
		_ = c.Close()
		delete(d.open, c)
		n++
	}
	return n
}

// track is the ConnState hook. http.Server calls it with StateNew before it accepts again.
func (d *drainer) track(c net.Conn, s http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s != http.StateClosed && s != http.StateHijacked {
		d.open[c] = connState{s, time.Now()}
		return
	}
	delete(d.open, c)
	select {
	case d.gone <- struct{}{}:
	default:
	}
}

func (d *drainer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open)
}
