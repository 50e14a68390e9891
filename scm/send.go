//go:build unix

package scm

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/socketpair"
)

// Send sends p with the descriptors of fds, in this order, as one message. It borrows them: the
// caller still owns each one, and may close it as soon as Send returns, or while it waits. (Not on
// macOS and the BSDs, which duplicate at the receive: wait for an answer there.)
//
// Send blocks while the socket has no room, until the write deadline or Close. On a stream p may be
// of any length and is sent to its end; descriptors go with its first byte. A packet must fit.
//
// Errors: [ErrTooManyFiles] (MaxFDs), [ErrEmpty], [ErrNotSendable], [ErrRefused], [ErrInFlight],
// [ErrTooLong], [ErrPeerGone], [ErrBroken], os.ErrDeadlineExceeded, net.ErrClosed; EMFILE if it
// has to wait and finds no number for the duplicates that it waits with. After any of them but
// ErrBroken nothing was sent.
func (c *Conn) Send(p []byte, fds ...syscall.Conn) error {
	if len(fds) == 0 {
		return c.SendFDs(p, nil)
	}
	if err := c.checkSend(p, len(fds)); err != nil {
		return err
	}
	tx := c.sender()
	defer c.sending.Unlock()
	if tx.broken != nil {
		return tx.broken
	}
	return c.sendLent(p, fds)
}

// SendFDs is Send for descriptor numbers. It allocates nothing after the first call. The caller must
// keep the numbers open until it returns, so nobody else may close them while it waits. It refuses
// the Conn's own number, but does not look for duplicates of it, as Send does.
func (c *Conn) SendFDs(p []byte, fds []int) error {
	if err := c.checkSend(p, len(fds)); err != nil {
		return err
	}
	tx := c.sender()
	defer c.sending.Unlock()
	if tx.broken != nil {
		return tx.broken
	}
	return c.transmit(p, 0, fds)
}

// checkSend refuses what the kernel would drop silently or answer with a bare EINVAL.
func (c *Conn) checkSend(p []byte, nfds int) error {
	if nfds > MaxFDs {
		return &opError{op: "send", kind: ErrTooManyFiles, detail: fmt.Sprintf("%d, and one message carries %d", nfds, MaxFDs)}
	}
	if len(p) == 0 && !c.mayBeEmpty(nfds) {
		return &opError{op: "send", kind: ErrEmpty}
	}
	return nil
}

func (c *Conn) mayBeEmpty(nfds int) bool {
	return (c.style == socketpair.Datagram || c.style == socketpair.SeqPacket && nfds > 0) && emptyTravels
}

// A sender is the state of the one Send that is under way. It is made at the first: many Conns are
// one-way.
type sender struct {
	broken error // the failure that cut a message off

	header header
	rights [cmsg.RightsSize]byte
	fds    []int // behind rights
	once   bool  // one attempt only: descriptors are lent and nobody may wait
	self   int   // the place in fds of the Conn itself, if errno is errSelf
	n      int
	errno  syscall.Errno
	step   func(fd uintptr) bool // attempt

	// Of sendLent.
	p        []byte
	conns    []syscall.Conn
	lent     []int
	numbers  [MaxFDs]int
	err      error
	lendStep func(fd uintptr) // lendOne

	// Of SendBatch; n is the number of messages.
	batch   *batch
	packets []Packet // nil: the message is that of header
}

// errSelf stands for the Conn's own number among the descriptors. sendmsg(2) does not return it.
const errSelf = unix.ELOOP

// sender begins a send: it waits for the one that is under way.
func (c *Conn) sender() *sender {
	c.sending.Lock()
	if c.tx == nil {
		// Each method value is an allocation, so they are made once.
		tx := new(sender)
		tx.step = tx.attempt
		tx.lendStep = c.lendOne
		c.tx = tx
	}
	return c.tx
}

// set makes p and fds the next message.
func (tx *sender) set(p []byte, fds []int) {
	tx.fds = fds
	tx.header.set(p, cmsg.AppendRights(tx.rights[:0], fds))
}

// clear lets go of what is the caller's.
func (tx *sender) clear() {
	tx.fds = nil
	tx.header.clear()
}

// attempt is one sendmsg(2) or sendmmsg(2); false means wait and call again.
func (tx *sender) attempt(fd uintptr) bool {
	if tx.packets != nil {
		return tx.attemptBatch(fd)
	}
	if tx.self = tx.findSelf(int(fd)); tx.self >= 0 {
		tx.errno = errSelf
		return true
	}
	tx.n, tx.errno = tx.header.send(int(fd), len(tx.fds))
	return tx.errno != unix.EAGAIN || tx.once
}

// findSelf looks for the Conn, whose number is fd, in what it is to send. A socket in its own queue keeps
// itself alive: nothing would free it before the kernel's collector passes.
func (tx *sender) findSelf(fd int) int {
	if !tx.once {
		return slices.Index(tx.fds, fd)
	}
	for i, lent := range tx.lent {
		switch tx.conns[i].(type) {
		case *net.TCPConn, *net.TCPListener, *net.UDPConn: // of another namespace: no need to ask
		default:
			if sameSocket(lent, fd) {
				return i
			}
		}
	}
	return -1
}

// transmit sends p from byte sent on, with the descriptors fds, and waits as long as it takes. What
// the kernel did not take of a stream message at once follows without the descriptors: they went
// with the first byte, and the same control data again would deliver them again.
func (c *Conn) transmit(p []byte, sent int, fds []int) error {
	tx := c.tx
	tx.once = false
	for {
		tx.set(p[sent:], fds)
		err := c.write(tx)
		tx.clear()
		if err == nil && tx.errno != 0 {
			err = c.sendError(tx.errno, len(p), fds)
		}
		if err != nil {
			return c.cutOff(err, sent, len(p))
		}
		sent += tx.n
		if sent >= len(p) || c.style != socketpair.Stream {
			return nil
		}
		fds = nil
	}
}

// cutOff makes err stick to the Conn if a part of the message had been sent.
func (c *Conn) cutOff(err error, sent, whole int) error {
	if sent == 0 {
		return err
	}
	c.tx.broken = &opError{op: "send", kind: ErrBroken, detail: fmt.Sprintf("%d of %d bytes were sent", sent, whole), cause: err}
	return c.tx.broken
}

// sendLent sends p with the descriptors of conns. It makes one attempt inside the RawConn.Control
// of all of them; waiting there would hold up the Close of their owners for as long as the other
// end does not read. If the socket has no room, it waits with duplicates.
func (c *Conn) sendLent(p []byte, conns []syscall.Conn) error {
	tx := c.tx
	tx.p, tx.err = p, nil
	tx.conns = append(tx.conns[:0], conns...) // a copy, so that the caller's may be on its stack
	tx.lent = tx.numbers[:0]
	tx.n, tx.errno = 0, 0
	c.lendNext()
	tx.p = nil
	clear(tx.conns)
	switch {
	case tx.err != nil:
		return tx.err
	case tx.errno == unix.EAGAIN:
		err := c.transmit(p, 0, tx.lent) // duplicates by now
		sysfd.CloseAll(tx.lent)
		return err
	case c.style == socketpair.Stream && tx.n < len(p):
		return c.transmit(p, tx.n, nil)
	}
	return nil
}

// lendNext borrows the next descriptor and goes on inside; after the last one it sends.
func (c *Conn) lendNext() {
	tx := c.tx
	i := len(tx.lent)
	if i == len(tx.conns) {
		c.sendOnce()
		return
	}
	err := os.ErrInvalid
	if tx.conns[i] != nil {
		err = sysfd.Lend(tx.conns[i], tx.lendStep)
	}
	if err != nil && tx.err == nil {
		tx.err = &opError{op: "send", kind: ErrNotSendable, detail: fmt.Sprintf("descriptor %d", i), cause: err}
	}
}

// lendOne is what RawConn.Control calls with a borrowed descriptor.
func (c *Conn) lendOne(fd uintptr) {
	tx := c.tx
	tx.lent = append(tx.lent, int(fd))
	c.lendNext()
}

// sendOnce makes the attempt while all descriptors are lent. With no room in the socket it leaves
// duplicates in their place.
func (c *Conn) sendOnce() {
	tx := c.tx
	tx.once = true
	tx.set(tx.p, tx.lent)
	err := c.write(tx)
	tx.clear()
	switch {
	case err != nil:
		tx.err = err
	case tx.errno == unix.EAGAIN:
		for i, fd := range tx.lent {
			dup, err := sysfd.Dup(fd)
			if err != nil {
				sysfd.CloseAll(tx.lent[:i])
				tx.err = tableFull("send", nil, "waiting takes duplicates", err)
				return
			}
			tx.lent[i] = dup
		}
	case tx.errno != 0:
		tx.err = c.sendError(tx.errno, len(tx.p), tx.lent)
	}
}

// sendError says what errno of sendmsg(2) means for a message with n bytes and fds, which are still
// open.
func (c *Conn) sendError(errno syscall.Errno, n int, fds []int) error {
	e := &opError{op: "send", cause: os.NewSyscallError("sendmsg", errno)}
	switch {
	case gone(errno):
		e.kind = ErrPeerGone
		// The kernel has dropped what was unread here, and an end without a name can be reached by
		// nobody else: a Receive would wait for ever.
		if c.style == socketpair.Datagram && c.unnamed && !c.lost.Swap(true) {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes one that waits already
		}
	case errno == unix.EPERM && len(fds) > 0:
		e.kind = ErrRefused
	case errno == errSelf:
		e.kind, e.cause = ErrNotSendable, nil
		e.detail = fmt.Sprintf("descriptor %d is the socket that it would travel over", c.tx.self)
	case errno == unix.ETOOMANYREFS:
		e.kind = ErrInFlight
		e.detail = fmt.Sprintf("RLIMIT_NOFILE of the sender, %d, bounds them for its user", sysfd.Limit())
	case errno == unix.EMSGSIZE || errno == unix.ENOBUFS && fullMeansTooLong:
		e.kind = ErrTooLong
		e.detail = fmt.Sprintf("%d bytes", n)
		if len(fds) > 0 {
			e.detail += fmt.Sprintf(" and %d descriptors", len(fds))
		}
	case errno == unix.EBADF:
		e.kind = ErrNotSendable
		e.detail = "not open"
		if i, ok := firstClosed(fds); ok {
			e.detail = fmt.Sprintf("descriptor %d, number %d, is not open", i, fds[i])
		}
	case errno == unix.EINVAL:
		if i, ok := firstRing(fds); ok {
			e.kind = ErrNotSendable
			e.detail = fmt.Sprintf("descriptor %d, number %d, is an io_uring", i, fds[i])
		}
	}
	return e
}

func firstClosed(fds []int) (int, bool) {
	for i, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return i, true
		}
	}
	return 0, false
}

// firstRing looks for what the kernel does not let travel: an io_uring would keep its own files
// alive.
func firstRing(fds []int) (int, bool) {
	for i, fd := range fds {
		if link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && link == "anon_inode:[io_uring]" {
			return i, true
		}
	}
	return 0, false
}

// tableFull says that this process has no free number, if that is what err says.
func tableFull(op string, kind error, detail string, err error) error {
	if err == unix.EMFILE {
		detail += "; " + sysfd.Usage()
	}
	return &opError{op: op, kind: kind, detail: detail, cause: err}
}
