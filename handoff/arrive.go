package handoff

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
)

// arrivals is the successor's end of the pair over which connections move: see mover.
type arrivals struct {
	conn  *scm.Conn
	maker *credentials.Process // of the pair: the predecessor

	mu   sync.Mutex
	stop bool
	done chan struct{} // closed when no more will come; nil before it has begun
}

// newArrivals takes the item's descriptor.
func newArrivals(it *Item) (*arrivals, error) {
	growFor(it.Meta)
	conn, err := takeChannel(it)
	if err != nil {
		return nil, err
	}
	// It made the pair, so this names it, and cannot be forged.
	maker, err := credentials.PeerProcess(conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &arrivals{conn: conn, maker: maker}, nil
}

// takeChannel takes an item that is one end of a pair.
func takeChannel(it *Item) (*scm.Conn, error) {
	c, err := it.TakeConn()
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.WithMessagef(ErrItem, "%q is a %T", it.Name, c)
	}
	conn, err := scm.NewConn(u)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return conn, nil
}

// begin takes connections for these listeners, in the background.
func (a *arrivals) begin(listeners []*listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stop {
		return
	}
	a.done = make(chan struct{})
	go func() {
		defer close(a.done)
		defer a.free()
		_ = a.run(listeners)
	}()
}

// end lets the batch that is under way come to its end, and takes no other. It returns when that is so or ctx ends.
func (a *arrivals) end(ctx context.Context) {
	if a == nil {
		return
	}
	a.mu.Lock()
	first := !a.stop
	a.stop = true
	done := a.done
	a.mu.Unlock()
	if done == nil {
		if first {
			a.free()
		}
		return
	}
	_ = a.conn.SetReadDeadline(past)
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// abandon ends what end has waited for in vain: a batch of a predecessor that hangs stays its own.
func (a *arrivals) abandon() {
	if a != nil {
		_ = a.conn.Close()
	}
}

func (a *arrivals) stopping() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stop
}

func (a *arrivals) free() {
	_ = a.conn.Close()
	_ = a.maker.Close()
}

// run tells the predecessor for which listeners connections are taken, and takes them until its end of the pair is
// closed.
func (a *arrivals) run(listeners []*listener) error {
	byName := map[string]*listener{}
	var wants []string
	for _, l := range listeners {
		byName[l.name] = l
		wants = append(wants, l.name)
	}
	if err := a.conn.Send(newFrame(frameWants, 0, names(wants))); err != nil {
		return err
	}
	in := make([]byte, frameHeader+maxPayload)
	received := 0
	for !a.stopping() {
		m, err := a.conn.Receive(in, itemsPerFrame)
		if err != nil {
			return err
		}
		batch, err := receiveConns(&m, byName)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			continue // of a later version
		}
		received += len(batch)
		at("successor", "send ack")
		err = a.conn.Send(newFrame(frameAck, 0, appendUint32(nil, tagCount, uint32(received))))
		if err == nil || errors.Is(err, scm.ErrPeerGone) {
			err = a.awaitClosed(in, received)
		}
		at("successor", "take connections")
		ours := err == nil
		for _, c := range batch {
			if ours && c.listener.arrive(c) {
				continue
			}
			_ = c.stream.Close()
			if ours { // nobody accepts there any more, and no others shall come
				err = net.ErrClosed
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// receiveConns makes connections of a message. After an error the predecessor's copies are all there is.
func receiveConns(m *scm.Message, byName map[string]*listener) (batch []*conn, err error) {
	defer discard(&m.Files)
	f, err := parsePacket(m.Data)
	if err != nil || f.kind != frameItems {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, c := range batch {
				_ = c.stream.Close()
			}
			batch = nil
		}
	}()
	err = records(f.payload, func(t tag, v []byte) error {
		if t != tagItem {
			return nil
		}
		it, err := parseItem(v)
		if err != nil {
			return err
		}
		l := byName[it.Name]
		if l == nil || it.Kind != Connection {
			return errors.WithMessagef(ErrProtocol, "a %v of %q moves, which nobody asked for", it.Kind, it.Name)
		}
		got, err := m.Files.TakeConn(len(batch))
		if err != nil {
			return err
		}
		s, ok := got.(stream)
		if !ok {
			_ = got.Close()
			return errors.WithMessagef(ErrItem, "a %T of %q moves", got, it.Name)
		}
		c := newConn(l, s)
		c.late.since = time.Now()
		batch = append(batch, c)
		return nil
	})
	if err == nil && len(batch) != m.Files.Len() {
		err = errors.WithMessagef(ErrProtocol, "%d descriptors for %d connections", m.Files.Len(), len(batch))
	}
	return batch, err
}

// awaitClosed returns nil when the predecessor has no copies any more of the connections that are acknowledged:
// it says so, or is dead. One that takes them back says so before it reads from them. One that is silent may do
// either; there is no deadline.
func (a *arrivals) awaitClosed(in []byte, received int) error {
	for {
		_ = a.conn.SetReadDeadline(time.Time{})
		m, err := a.conn.Receive(in, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // of end, which lets this come to its end
		}
		if err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), deathNotice)
			defer cancel()
			if a.maker.Wait(ctx) == nil {
				return nil
			}
			return err // it lives and has closed the pair: they are its own
		}
		f, err := parsePacket(m.Data)
		if err != nil {
			return err
		}
		switch f.kind {
		case frameAbort:
			return because(ErrKept, parseAbort(f.payload))
		case frameClosed:
			if n, err := countOf(f.payload); err != nil || n == received {
				return err
			}
		}
	}
}

// late makes the deadlines of a server right for a connection that has arrived from the predecessor. The server
// takes it for new and begins to count for its first request at once; but it is one that waits
// for its next request. So until that comes it has the time of an idle connection, and what the server
// sets counts from then on.
type late struct {
	since time.Time     // of the arrival; zero once the first request is answered, and for all others
	by    time.Duration // from the arrival to the first byte
	want  time.Time     // the server's, before that
}

// later returns the deadline for which the server's t stands. It is called under halt's lock.
func (c *conn) later(t time.Time) time.Time {
	l := &c.late
	if l.since.IsZero() || !t.IsZero() && t.Before(l.since) { // one in the past is there to wake
		return t
	}
	h := c.served.Load()
	if h == nil || h.requests.Load() > 0 { // a handler's own
		return t
	}
	switch {
	case c.heard.Load() >= 0 && t.IsZero():
		return t
	case c.heard.Load() >= 0:
		return t.Add(l.by)
	}
	l.want = t
	idle := h.drain.srv.IdleTimeout
	if idle == 0 {
		idle = h.drain.srv.ReadTimeout
	}
	if idle <= 0 {
		return time.Time{}
	}
	return l.since.Add(idle)
}

// hear sets the server's own deadline when the first byte has come. It is called under halt's lock.
func (c *conn) hear(first bool) {
	l := &c.late
	if !first || l.since.IsZero() {
		return
	}
	l.by = time.Since(l.since)
	deadline := l.want
	if !deadline.IsZero() {
		deadline = deadline.Add(l.by)
	}
	c.halt.deadline = deadline
	_ = c.stream.SetReadDeadline(deadline)
}
