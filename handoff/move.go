package handoff

import (
	"context"
	"encoding/binary"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// Connections of HTTP/1.1 without TLS move to the successor between two requests, when it owns for good. They go
// over a pair of their own, whose one end is among the items of the handoff: see docs/protocol.md.
//
// At every moment one of the two has the right to read from a connection: the predecessor until it has
// said "closed", the successor from then on, or from the predecessor's death on.

const (
	// movesPace is the time between two batches. Whoever asks meanwhile waits behind what a batch costs both
	// processes, so they are small.
	movesPace = time.Millisecond

	// movesAsked is how many idle connections are stopped in that time, movesBatch how many move at most. The others
	// are those that stopped behind an answer of their own, whose clients are most likely to ask next.
	movesAsked = 16
	movesBatch = 64
)

// A mover is the predecessor's end of the pair.
type mover struct {
	conn   *scm.Conn
	theirs *scm.Conn // until the handoff has ended
	limit  time.Duration

	more chan struct{} // has room for one; tells of stops

	mu    sync.Mutex
	names map[string]bool // of the listeners for which the successor takes connections; nil if for none
	stops []*conn
	moved int // acknowledged
}

// newMover makes the pair. limit is how long the successor may take for an answer.
func newMover(limit time.Duration) (*mover, error) {
	ours, theirs, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		return nil, err
	}
	return &mover{conn: ours, theirs: theirs, limit: limit, more: make(chan struct{}, 1)}, nil
}

// item is what the successor gets. Its metadata say how many connections to expect, for its descriptor table.
func (m *mover) item(open int) Item {
	return Item{Name: movesItem, Kind: Connection, Conn: m.theirs, Meta: binary.BigEndian.AppendUint32(nil, uint32(open))}
}

// handed says that the successor has its end now.
func (m *mover) handed() {
	if m != nil {
		_ = m.theirs.Close()
	}
}

// close ends it. What has stopped goes on here.
func (m *mover) close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	stops := m.stops
	m.names, m.stops = nil, nil
	m.mu.Unlock()
	for _, c := range stops {
		c.goOn()
	}
	_ = m.theirs.Close()
	_ = m.conn.Close()
}

// wants reports whether the successor takes c.
func (m *mover) wants(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names[c.listener.name]
}

// stopped hands a connection that has stopped to m. It reports false if it cannot leave.
func (m *mover) stopped(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.names[c.listener.name] {
		return false
	}
	m.stops = append(m.stops, c)
	notify(m.more)
	return true
}

func (m *mover) take(limit int) []*conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	batch := m.stops[:min(limit, len(m.stops))]
	m.stops = m.stops[len(batch):]
	return batch
}

// open hears for which listeners the successor takes connections. It says that when it serves, so it has.
func (m *mover) open(limit time.Duration) error {
	f, err := m.receive(time.Now().Add(min(limit, m.limit)))
	if err != nil {
		return err
	}
	if f.kind != frameWants {
		return errors.WithMessage(ErrProtocol, "the successor does not say what it wants")
	}
	names, err := parseNames(f.payload)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = make(map[string]bool, len(names))
	for _, name := range names {
		m.names[name] = true
	}
	return nil
}

// run moves what stops, and has those of idle stop, a few at a time, until ctx ends or the successor is not there
// any more, which is an error. m is closed then.
func (m *mover) run(ctx context.Context, idle []*conn) error {
	defer m.close()
	// It ends the wait for an acknowledgement. What is sent then is sent: see move and takeBack.
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetReadDeadline(past) })
	defer stop()
	pace := time.NewTicker(movesPace)
	defer pace.Stop()
	for {
		batch := m.take(movesBatch)
		if len(batch) == 0 && len(idle) == 0 {
			select {
			case <-m.more:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := m.move(batch); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		for asked := len(batch); asked < movesAsked && len(idle) > 0; idle = idle[1:] {
			if idle[0].ask(m) {
				asked++
			}
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// move moves a batch. After an error none of it has moved.
func (m *mover) move(batch []*conn) (err error) {
	if len(batch) == 0 {
		return nil
	}
	defer func() {
		if err != nil {
			m.takeBack(batch, err)
		}
	}()
	items := make([]Item, len(batch))
	for i, c := range batch {
		items[i] = Item{Name: c.listener.name, Kind: Connection, Conn: c.stream}
	}
	at("predecessor", "send connections")
	var frame []byte
	var files []syscall.Conn
	for len(items) > 0 {
		frame, files = nextItems(items, frame, files)
		if err := m.conn.Send(frame, files...); err != nil {
			return err
		}
		items = items[len(files):]
	}
	until := time.Now().Add(m.limit)
	for acked := 0; acked < m.moved+len(batch); {
		f, err := m.receive(until)
		if err != nil {
			return err
		}
		if f.kind != frameAck {
			continue // of a later version
		}
		if acked, err = countOf(f.payload); err != nil {
			return err
		}
		if acked > m.moved+len(batch) {
			return errors.WithMessage(ErrProtocol, "more connections acknowledged than sent")
		}
	}
	m.moved += len(batch)
	at("predecessor", "close connections")
	for _, c := range batch {
		c.leave()
	}
	at("predecessor", "send closed")
	// If it does not arrive the successor has died, and they with it. The drain may have ended with the last one.
	_ = m.conn.Send(newFrame(frameClosed, 0, appendUint32(nil, tagCount, uint32(m.moved))))
	return nil
}

// takeBack lets a batch that was sent stay, if the successor hears of it or is gone. It says so before anybody reads:
// should we die later, what the successor finds in its queue must not be taken for its own. If it can
// not be told, nobody may read from these any more.
func (m *mover) takeBack(batch []*conn, why error) {
	_ = m.conn.SetWriteDeadline(time.Now().Add(m.limit))
	err := m.conn.Send(newFrame(frameAbort, 0, abort(why)))
	told := err == nil || errors.Is(err, scm.ErrPeerGone)
	for _, c := range batch {
		if told {
			c.goOn()
		} else {
			c.leave()
		}
	}
}

// receive returns the next frame, which has no descriptors, if it comes before the deadline.
func (m *mover) receive(deadline time.Time) (frame, error) {
	_ = m.conn.SetReadDeadline(deadline)
	p := make([]byte, frameHeader+maxPayload)
	got, err := m.conn.Receive(p, 0)
	if err != nil {
		return frame{}, err
	}
	defer got.Close()
	return parsePacket(got.Data)
}

// mover returns who wants to move the connection: nobody unless it is served as it is, by HTTP/1.1.
func (c *conn) mover() *mover {
	h := c.served.Load()
	if h == nil || !h.plain() || h.requests.Load() > 0 {
		return nil
	}
	switch http.ConnState(h.state.Load()) {
	case http.StateNew, http.StateIdle:
		return h.drain.mover.Load()
	}
	return nil
}

// at is a point between two system calls at which a test may strike.
func at(role, before string) {
	if probe != nil {
		probe(role, stepOver, before)
	}
}

// growFor grows the descriptor table for the connections of a predecessor that says how many it has. It is worth
// an attempt: they come in batches, and are refused when there is no room.
func growFor(meta []byte) {
	if len(meta) == 4 {
		_ = sysfd.Grow(int(min(binary.BigEndian.Uint32(meta), maxItems)))
	}
}
