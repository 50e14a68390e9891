package handoff

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// A conn is a connection that its listener counts until it is closed. It has what net/http looks for:
// CloseWrite, without which an answer to a client that is still sending ends in a reset, and ReadFrom,
// which is sendfile(2). It has no File and no NetConn: all that is read passes here.
type conn struct {
	listener *listener
	stream   stream
	heard    atomic.Int64 // when, after programStart
	http2    atomic.Bool  // the first bytes were those of HTTP/2 without TLS
	served   atomic.Pointer[httpConn]
	halt     halt
	late     late // under halt's lock
}

// stream is what *net.TCPConn and *net.UnixConn have in common.
type stream interface {
	net.Conn
	syscall.Conn
	CloseRead() error
	CloseWrite() error
}

var programStart = time.Now() // on the monotonic clock

func newConn(l *listener, s stream) *conn {
	c := &conn{listener: l, stream: s}
	c.heard.Store(-1)
	return c
}

// Read reads from the connection, as net.Conn says.
func (c *conn) Read(p []byte) (int, error) {
	return c.read(len(p), func() (int, error) {
		n, err := c.stream.Read(p)
		if n > 0 {
			if c.heard.Swap(int64(time.Since(programStart))) < 0 && bytes.HasPrefix(p[:n], http2Preface) {
				c.http2.Store(true)
			}
		}
		return n, err
	})
}

// http2Preface is how a client without TLS begins to speak HTTP/2 (RFC 9113, 3.4).
var http2Preface = []byte("PRI * HTTP/2")

// heardSince reports whether the peer was heard after t.
func (c *conn) heardSince(t time.Time) bool {
	heard := c.heard.Load()
	return heard >= 0 && programStart.Add(time.Duration(heard)).After(t)
}

// Write writes to the connection.
func (c *conn) Write(p []byte) (int, error) { return c.stream.Write(p) }

// ReadFrom writes all of r, with sendfile(2) or splice(2) where those can.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if w, ok := c.stream.(io.ReaderFrom); ok {
		return w.ReadFrom(r)
	}
	return io.Copy(c.stream, r)
}

// Close closes the connection, which counts no longer.
func (c *conn) Close() error {
	c.halt.shut()
	err := c.stream.Close()
	c.listener.remove(c)
	return err
}

// CloseRead ends reading, CloseWrite tells the peer that nothing more will come.
func (c *conn) CloseRead() error { return c.stream.CloseRead() }

// CloseWrite tells the peer that nothing more will come.
func (c *conn) CloseWrite() error { return c.stream.CloseWrite() }

// LocalAddr and RemoteAddr are the two ends.
func (c *conn) LocalAddr() net.Addr { return c.stream.LocalAddr() }

// RemoteAddr is the peer's address.
func (c *conn) RemoteAddr() net.Addr { return c.stream.RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.setReadDeadline(t); err != nil {
		return err
	}
	return c.stream.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read.
func (c *conn) SetReadDeadline(t time.Time) error { return c.setReadDeadline(t) }

// SetWriteDeadline sets the deadline of Write and ReadFrom.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// SyscallConn is for options. What is read with it, the drain does not hear.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.stream.SyscallConn() }

var (
	_ net.Listener  = (*listener)(nil)
	_ syscall.Conn  = (*listener)(nil)
	_ net.Conn      = (*conn)(nil)
	_ io.ReaderFrom = (*conn)(nil)
	_ syscall.Conn  = (*conn)(nil)
)
