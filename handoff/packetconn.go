package handoff

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// A packetConn is a datagram socket whose reads can be made to wait: two processes that read from one
// socket would each get a part of what comes. Writing goes on. It is a *udpConn or, for other
// sockets, itself.
type packetConn struct {
	name string
	sock packetSocket
	gate gate
}

// packetSocket is what *net.UDPConn and *net.UnixConn have in common. QUIC libraries make a net.Conn
// of their net.PacketConn, so Read, Write and RemoteAddr must be there.
type packetSocket interface {
	net.Conn
	net.PacketConn
	syscall.Conn
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

// A pausable net.PacketConn, for the service.
type pausablePacketConn interface {
	packetSocket
	base() *packetConn
}

// newPacketConn takes c over, which is a *net.UDPConn or a *net.UnixConn of datagrams. Parked, it reads
// from the first resume on.
func newPacketConn(name string, c net.PacketConn, parked bool) (pausablePacketConn, error) {
	s, ok := c.(packetSocket)
	if !ok {
		return nil, errors.WithMessagef(ErrItem, "%q is a %T", name, c)
	}
	p := &packetConn{name: name, sock: s}
	udp, ok := c.(*net.UDPConn)
	p.gate = gate{op: "read", addr: s.LocalAddr(), setDeadline: s.SetReadDeadline, close: s.Close}
	p.gate.init(parked)
	if ok {
		return &udpConn{packetConn: p, udp: udp}, nil
	}
	return p, nil
}

func (c *packetConn) base() *packetConn { return c }

// pause lets nobody read and returns when nobody does.
func (c *packetConn) pause(ctx context.Context) error { return c.gate.pause(ctx) }

// empty is pause for the last owner: what is in the kernel's queue is read first, or until ctx ends. Somebody must be
// reading.
func (c *packetConn) empty(ctx context.Context) error {
	look := time.NewTicker(time.Millisecond) // nothing tells that a datagram was read
	defer look.Stop()
	for {
		if err := c.pause(ctx); err != nil {
			return err
		}
		select {
		case <-c.gate.gone:
			return nil
		default:
		}
		if !sysfd.Readable(c.sock) {
			return nil
		}
		c.resume()
		select {
		case <-look.C:
		case <-ctx.Done():
			return c.pause(context.WithoutCancel(ctx))
		}
	}
}

func (c *packetConn) resume() { c.gate.resume() }

func (c *packetConn) release() error { return c.gate.release() }

func (c *packetConn) waiting() <-chan struct{} { return c.gate.waiting() }

// dropped returns how many datagrams the kernel has dropped, since the socket was made, for want of
// room in its queue (it counts modulo 2^32). They are those of all processes that hold the socket.
func (c *packetConn) dropped() (uint32, error) { return dropped(c.sock) }

// ReadFrom reads a datagram.
func (c *packetConn) ReadFrom(p []byte) (n int, addr net.Addr, err error) {
	err = c.gate.pass(func() (err error) {
		n, addr, err = c.sock.ReadFrom(p)
		return err
	})
	return n, addr, err
}

// Read reads a datagram, without its sender.
func (c *packetConn) Read(p []byte) (n int, err error) {
	err = c.gate.pass(func() (err error) {
		n, err = c.sock.Read(p)
		return err
	})
	return n, err
}

// WriteTo writes a datagram.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (int, error) { return c.sock.WriteTo(p, addr) }

// Write writes a datagram to the default destination.
func (c *packetConn) Write(p []byte) (int, error) { return c.sock.Write(p) }

// Close closes this process's copy of the socket and ends reads with net.ErrClosed.
func (c *packetConn) Close() error { return c.release() }

// LocalAddr is the socket's address.
func (c *packetConn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// RemoteAddr is the default destination, nil if there is none.
func (c *packetConn) RemoteAddr() net.Addr { return c.sock.RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *packetConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of reads. It goes on through a pause.
func (c *packetConn) SetReadDeadline(t time.Time) error { return c.gate.setOwnDeadline(t) }

// SetWriteDeadline sets the deadline of writes.
func (c *packetConn) SetWriteDeadline(t time.Time) error { return c.sock.SetWriteDeadline(t) }

// SetReadBuffer sets the size of the kernel's queue, SO_RCVBUF.
func (c *packetConn) SetReadBuffer(n int) error { return c.sock.SetReadBuffer(n) }

// SetWriteBuffer sets SO_SNDBUF.
func (c *packetConn) SetWriteBuffer(n int) error { return c.sock.SetWriteBuffer(n) }

// SyscallConn returns the socket's RawConn, whose Read is one of our reads: QUIC libraries receive
// batches with recvmmsg(2) there. To receive inside Control passes the gate by.
func (c *packetConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &packetRawConn{RawConn: raw, gate: &c.gate}, nil
}

type packetRawConn struct {
	syscall.RawConn
	gate *gate
}

// Read calls f until it returns true.
func (r *packetRawConn) Read(f func(fd uintptr) bool) error {
	return r.gate.pass(func() error { return r.RawConn.Read(f) })
}

// A udpConn is a packetConn with the rest of what *net.UDPConn has.
type udpConn struct {
	*packetConn
	udp *net.UDPConn
}

// ReadFromUDP is ReadFrom for UDP.
func (c *udpConn) ReadFromUDP(p []byte) (n int, addr *net.UDPAddr, err error) {
	err = c.gate.pass(func() (err error) {
		n, addr, err = c.udp.ReadFromUDP(p)
		return err
	})
	return n, addr, err
}

// ReadFromUDPAddrPort is ReadFrom without allocation.
func (c *udpConn) ReadFromUDPAddrPort(p []byte) (n int, addr netip.AddrPort, err error) {
	err = c.gate.pass(func() (err error) {
		n, addr, err = c.udp.ReadFromUDPAddrPort(p)
		return err
	})
	return n, addr, err
}

// ReadMsgUDP is recvmsg(2).
func (c *udpConn) ReadMsgUDP(p, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	err = c.gate.pass(func() (err error) {
		n, oobn, flags, addr, err = c.udp.ReadMsgUDP(p, oob)
		return err
	})
	return n, oobn, flags, addr, err
}

// ReadMsgUDPAddrPort is recvmsg(2) without allocation.
func (c *udpConn) ReadMsgUDPAddrPort(p, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	err = c.gate.pass(func() (err error) {
		n, oobn, flags, addr, err = c.udp.ReadMsgUDPAddrPort(p, oob)
		return err
	})
	return n, oobn, flags, addr, err
}

// WriteToUDP is WriteTo for UDP.
func (c *udpConn) WriteToUDP(p []byte, addr *net.UDPAddr) (int, error) {
	return c.udp.WriteToUDP(p, addr)
}

// WriteToUDPAddrPort is WriteTo without allocation.
func (c *udpConn) WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (int, error) {
	return c.udp.WriteToUDPAddrPort(p, addr)
}

// WriteMsgUDP is sendmsg(2).
func (c *udpConn) WriteMsgUDP(p, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	return c.udp.WriteMsgUDP(p, oob, addr)
}

// WriteMsgUDPAddrPort is sendmsg(2) without allocation.
func (c *udpConn) WriteMsgUDPAddrPort(p, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	return c.udp.WriteMsgUDPAddrPort(p, oob, addr)
}
