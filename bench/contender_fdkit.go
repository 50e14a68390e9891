package main

import (
	"net"
	"os"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// ours are the tiers of package scm. "lazy" ones come from scm.Pair and are outside the runtime's poller as
// long as they need not wait, the others are made of a *net.UnixConn.
var ours = []contender{
	{name: "fdkit raw, lazy", pair: lazy(newRaw)},
	{name: "fdkit raw", over: over(newRaw)},
	{name: "fdkit Send/Receive, lazy", pair: lazy(newHigh)},
	{name: "fdkit Send/Receive", over: over(newHigh)},
	{name: "fdkit Send/Receive of TCP sockets", over: over(newHigh), tcp: true},
	{name: "fdkit Send/Receive, taken", over: over(newTaking)},
}

func lazy(wrap func(*scm.Conn) end) func(socketpair.Style) (a, b end, err error) {
	return func(style socketpair.Style) (a, b end, err error) {
		x, y, err := scm.Pair(style)
		if err != nil {
			return nil, nil, err
		}
		return wrap(x), wrap(y), nil
	}
}

func over(wrap func(*scm.Conn) end) func(*net.UnixConn) (end, error) {
	return func(c *net.UnixConn) (end, error) {
		conn, err := scm.NewConn(c)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}
}

// raw is SendFDs and ReceiveFDs.
type raw struct {
	*scm.Conn
	buf [8]byte
	fds [scm.MaxFDs]int
}

func newRaw(c *scm.Conn) end { return &raw{Conn: c} }

func (e *raw) send(p *payload) error { return e.SendFDs(p.data, p.numbers) }

func (e *raw) receive(p *payload) error {
	_, n, err := e.ReceiveFDs(e.buf[:], e.fds[:len(p.numbers)])
	if err != nil {
		return err
	}
	closeRuns(e.fds[:n])
	return wanted(n, p)
}

func (e *raw) close() error { return e.Close() }

func wanted(n int, p *payload) error {
	if n != len(p.numbers) {
		return errCount
	}
	return nil
}

// high is Send and Receive, and nothing taken.
type high struct {
	*scm.Conn
	buf [8]byte
}

func newHigh(c *scm.Conn) end { return &high{Conn: c} }

func (e *high) send(p *payload) error { return e.Send(p.data, p.conns...) }

func (e *high) receive(p *payload) error {
	m, err := e.Receive(e.buf[:], len(p.conns))
	if err != nil {
		return err
	}
	defer m.Close()
	return wanted(m.Files.Len(), p)
}

func (e *high) close() error { return e.Close() }

// taking makes a file of each.
type taking struct{ high }

func newTaking(c *scm.Conn) end { return &taking{high{Conn: c}} }

func (e *taking) receive(p *payload) error {
	m, err := e.Receive(e.buf[:], len(p.conns))
	if err != nil {
		return err
	}
	defer m.Close()
	files := make([]*os.File, m.Files.Len())
	for i := range files {
		files[i] = m.Files.Take(i)
	}
	for _, f := range files {
		if err := f.Close(); err != nil {
			return err
		}
	}
	return wanted(len(files), p)
}

// batches is SendBatch and ReceiveBatch, unit messages at a time.
type batches struct {
	a, b    *scm.Conn
	out, in []scm.Packet
}

func newBatches(a, b *scm.Conn, p *payload) *batches {
	e := &batches{a: a, b: b, out: make([]scm.Packet, unit), in: make([]scm.Packet, unit)}
	for i := range unit {
		e.out[i] = scm.Packet{Data: p.data, FDs: p.numbers}
		e.in[i] = scm.Packet{Data: make([]byte, 8), FDs: make([]int, len(p.numbers))}
	}
	return e
}

// pass sends and receives n messages.
func (e *batches) pass(n int, p *payload) error {
	for ; n > 0; n -= unit {
		if err := e.send(); err != nil {
			return err
		}
		for done := 0; done < unit; {
			got, err := e.receive(p)
			if err != nil {
				return err
			}
			done += got
		}
	}
	return nil
}

func (e *batches) send() error {
	_, err := e.a.SendBatch(e.out)
	return err
}

// receive returns how many messages came.
func (e *batches) receive(p *payload) (int, error) {
	n, err := e.b.ReceiveBatch(e.in)
	if err != nil {
		return 0, err
	}
	for i := range n {
		if e.in[i].Err != nil {
			return 0, e.in[i].Err
		}
		closeRuns(e.in[i].FDs[:e.in[i].NFDs])
		if e.in[i].NFDs != len(p.numbers) {
			return 0, errCount
		}
	}
	return n, nil
}
