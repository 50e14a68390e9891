//go:build unix

package scm

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/socketpair"
)

// MaxFDs is the number of descriptors that one message carries at most, SCM_MAX_FD of the Linux
// kernel.
const MaxFDs = cmsg.MaxFDs

// A Conn sends and receives messages that carry descriptors over one AF_UNIX socket of any style.
// It is not a net.Conn, because a plain Read destroys descriptors.
//
// Its methods may be called from several goroutines at once: messages do not mix, Close wakes
// everybody who waits. Each direction is served in turn, so a Receive that waits holds up the next
// Receive, but no Send. Nobody may read or write the socket otherwise meanwhile.
//
// The styles differ in what the kernel tells about the other end, and no library can mend it:
//
//   - SOCK_STREAM delivers what is queued, then, if the other end was closed with unread messages of
//     ours, [ErrPeerGone] once, then io.EOF.
//   - SOCK_SEQPACKET, where the kernel reports the reset before the queued packets, and may report the
//     end before those that came with it, is put into the same order here. An empty packet without
//     descriptors, which nobody should send, is taken for what it is while the other end is open. Once
//     that has closed, one of them is left out, since it could be such an end, and those with nothing
//     but empty packets behind them are the end. With SetPassCred all are told.
//   - SOCK_DGRAM has no end: on a pair whose other end was closed, Receive waits for its deadline.
//     Only a Send tells, with ErrPeerGone; and that Send makes the kernel drop all messages that
//     were still unread here, descriptors included. Receive what you want to have before you send
//     to an end that may be gone. From then on Receive reports ErrPeerGone and does not wait.
type Conn struct {
	socket *net.UnixConn   // taken over by NewConn,
	raw    syscall.RawConn // and its raw side; or
	handle *sysfd.Handle   // of a Conn made here

	style   socketpair.Style
	unnamed bool // nobody but the other end of a pair can reach it
	closed  atomic.Bool
	lost    atomic.Bool // a datagram end whose other end was seen to be gone

	sending   sync.Mutex
	tx        *sender // under sending
	receiving sync.Mutex
	rx        *receiver // under receiving
}

// NewConn makes a Conn of c and takes it over: use c no more, but for CloseWrite and its options.
// After an error c is still the caller's. c may be the end of a pair, a connection to a path, or a
// bound datagram socket; a socket that is none is ErrNotUnix, ErrListening or net.ErrClosed.
func NewConn(c *net.UnixConn) (*Conn, error) {
	if c == nil {
		return nil, errors.WithMessage(os.ErrInvalid, "scm: NewConn")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, errors.WithMessage(err, "scm: NewConn")
	}
	conn := &Conn{socket: c, raw: raw}
	if err := conn.init(); err != nil {
		return nil, errors.WithMessage(err, "scm: NewConn")
	}
	return conn, nil
}

// Pair makes two connected Conns and gives them to the caller. They stay out of the runtime's
// poller until one has to wait, which makes them cheaper than NewConn over socketpair.New; it is
// the same type with the same promises. Errors are those of socketpair.New.
func Pair(style socketpair.Style) (a, b *Conn, err error) {
	fds, err := sysfd.Socketpair(unix.AF_UNIX, int(style), 0)
	if err != nil {
		// The long way fails the same way and knows what to say.
		x, y, perr := socketpair.Create(unix.AF_UNIX, int(style), 0)
		if perr == nil { // there is room again; too late
			_ = x.Close()
			_ = y.Close()
			perr = errors.WithMessage(err, "scm: create a pair")
		}
		return nil, nil, perr
	}
	return newPaired(fds[0], style), newPaired(fds[1], style), nil
}

func newPaired(fd int, style socketpair.Style) *Conn {
	return &Conn{handle: sysfd.NewHandle(fd), style: style, unnamed: true}
}

// Inherit makes a Conn of the AF_UNIX socket that this process inherited under the number fd, the
// end that its parent got from socketpair.ForChild. It takes the number over; after an error the
// number is as it was. A number can be claimed once in the life of a process; errors are those of
// socketpair.Inherit.
func Inherit(fd uintptr) (*Conn, error) {
	number := int(fd)
	if err := sysfd.ClaimUnix(number); err != nil {
		return nil, errors.WithMessagef(err, "scm: inherit descriptor %d", fd)
	}
	c := &Conn{handle: sysfd.NewHandle(number)}
	if err := c.init(); err != nil {
		sysfd.Unclaim(number)
		return nil, errors.WithMessagef(err, "scm: inherit descriptor %d", fd)
	}
	unix.CloseOnExec(number)
	return c, nil
}

// init asks the socket what it is.
func (c *Conn) init() error {
	return sysfd.Control(c, func(fd int) error {
		if err := sysfd.CheckUnix(fd); err != nil {
			return err
		}
		style, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		c.style = socketpair.Style(style)
		if addr, err := unix.Getsockname(fd); err == nil {
			local, ok := addr.(*unix.SockaddrUnix)
			c.unnamed = ok && isUnnamed(local)
		}
		return nil
	})
}

// isUnnamed reports whether a socket has no name. x/sys shows that as "@", like an abstract name.
func isUnnamed(addr *unix.SockaddrUnix) bool { return addr.Name == "" || addr.Name == "@" }

// NetConn returns the connection that NewConn took over, for CloseWrite, the size of its send
// buffer and its addresses. It stays the Conn's: do not read, write or close it. A Conn made by
// Pair or Inherit has none and returns nil.
func (c *Conn) NetConn() *net.UnixConn { return c.socket }

// Style returns the socket's communication style.
func (c *Conn) Style() socketpair.Style { return c.style }

// SyscallConn lends the socket, for its options. Reading or writing through it mixes with Send and
// Receive.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if c.handle != nil {
		return c.handle.SyscallConn()
	}
	return c.raw, nil
}

// SetDeadline sets the moment at which Send and Receive, also those that wait already, give up
// with os.ErrDeadlineExceeded; the zero time means never. A message that was sent in part by then
// breaks the stream, see [ErrBroken].
func (c *Conn) SetDeadline(t time.Time) error {
	d, err := c.deadliner()
	if err != nil {
		return err
	}
	return c.waitError(d.SetDeadline(t))
}

// SetReadDeadline is SetDeadline for Receive.
func (c *Conn) SetReadDeadline(t time.Time) error {
	d, err := c.deadliner()
	if err != nil {
		return err
	}
	return c.waitError(d.SetReadDeadline(t))
}

// SetWriteDeadline is SetDeadline for Send.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	d, err := c.deadliner()
	if err != nil {
		return err
	}
	return c.waitError(d.SetWriteDeadline(t))
}

func (c *Conn) deadliner() (interface {
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}, error) {
	if c.handle != nil {
		return c.handle.File()
	}
	return c.socket, nil
}

// Close closes the socket and wakes everybody who waits in Send or Receive with net.ErrClosed.
// Messages that the other end sent and nobody received are dropped with their descriptors, and on
// a stream or SOCK_SEQPACKET the other end is told so ([ErrPeerGone]). Close works twice and on
// nil.
func (c *Conn) Close() error {
	if c == nil || c.closed.Swap(true) {
		return nil
	}
	if c.handle != nil {
		return c.handle.Close()
	}
	return c.socket.Close()
}

// read makes the attempts of rx until one is final, first right away and then whenever the socket is
// readable. A Conn that is not in the poller joins it when it has to wait.
func (c *Conn) read(rx *receiver) error {
	raw := c.raw
	if c.handle != nil {
		var ok bool
		if raw, ok = c.handle.Joined(); !ok {
			fd, ok := c.handle.Use()
			if !ok {
				return net.ErrClosed
			}
			done := rx.attempt(uintptr(fd))
			c.handle.Done()
			if done {
				return nil
			}
			var err error
			if raw, err = c.handle.Join(); err != nil {
				return err
			}
		}
	}
	return c.waitError(raw.Read(rx.step))
}

// write is read for the other direction.
func (c *Conn) write(tx *sender) error {
	raw := c.raw
	if c.handle != nil {
		var ok bool
		if raw, ok = c.handle.Joined(); !ok {
			fd, ok := c.handle.Use()
			if !ok {
				return net.ErrClosed
			}
			done := tx.attempt(uintptr(fd))
			c.handle.Done()
			if done {
				return nil
			}
			var err error
			if raw, err = c.handle.Join(); err != nil {
				return err
			}
		}
	}
	return c.waitError(raw.Write(tx.step))
}

// waitError turns what a RawConn says into the two errors that there are.
func (c *Conn) waitError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case c.closed.Load(), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed):
		return net.ErrClosed
	}
	return err
}
