//go:build unix

package scm

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/socketpair"
)

// Receive reads one message into p, with at most maxFiles descriptors, and gives them to the
// caller: Close the Message, or Take out of its Files what is to outlive it.
//
// It blocks until a message, the read deadline, or Close. At the end of the stream it returns
// io.EOF, bare. A message that does not fit is dropped whole, and its descriptors are closed when
// the error is returned: [ErrTruncated] if p was too short, [ErrTooManyFiles] if more than maxFiles
// came, [ErrFilesLost] if some did not get into this process. (If close(2) of one takes long, which a
// peer can arrange with SO_LINGER, it goes on in the background.) Further errors: [ErrPeerGone],
// os.ErrDeadlineExceeded, net.ErrClosed.
//
// On a stream a message is what the kernel returns at once: it may begin in bytes that were sent
// before those that brought the descriptors, and it ends with the latter at the latest. Of a
// message that is longer than p all descriptors come with its first byte. p must not be empty.
func (c *Conn) Receive(p []byte, maxFiles int) (Message, error) {
	rx := c.receiver()
	defer c.receiving.Unlock()
	if err := c.receive(p, maxFiles); err != nil {
		return Message{}, err
	}
	var fds []int
	if room := rx.rightsRoom(); room > 0 {
		fds = make([]int, 0, room)
	}
	if fds, ok := rx.whole(len(p), fds, maxFiles); ok {
		return Message{Data: p[:rx.n], Files: Files{fds: fds}}, nil
	}
	n, got, err := c.judgeOne(len(p), fds, maxFiles)
	if err != nil {
		return Message{}, err
	}
	return Message{Data: p[:n], Files: Files{fds: got.FDs}, Sender: newSender(&got)}, nil
}

// ReceiveFDs is Receive for descriptor numbers. It puts at most len(fds) of them into fds and says
// how many; from then on they are the caller's to close. With an error there are none. It allocates
// nothing after the first call. Credentials that come with the message are not reported.
func (c *Conn) ReceiveFDs(p []byte, fds []int) (n, nfds int, err error) {
	rx := c.receiver()
	defer c.receiving.Unlock()
	if err := c.receive(p, len(fds)); err != nil {
		return 0, 0, err
	}
	if got, ok := rx.whole(len(p), fds[:0:len(fds)], len(fds)); ok {
		return rx.n, len(got), nil
	}
	n, got, err := c.judgeOne(len(p), fds[:0:len(fds)], len(fds))
	if err != nil {
		return 0, 0, err
	}
	if got.PIDFD >= 0 {
		_ = unix.Close(got.PIDFD)
	}
	return n, len(got.FDs), nil
}

// resetState is about a reset that the kernel reports, once, before the messages that are still
// queued: recvmsg(2) on SOCK_SEQPACKET, recvmmsg(2) on a stream too. A reader that stops at it loses
// them, so it is told behind them, as recvmsg(2) does on a stream.
type resetState int

const (
	none resetState = iota
	heldBack
	told
)

// A receiver is the state of the one Receive that is under way. It is made at the first.
type receiver struct {
	reset resetState
	ended bool // SOCK_SEQPACKET: the other end has shut down, and the kernel has said so before

	header   header
	control  [cmsg.BufferSize]byte
	style    socketpair.Style
	nfds     int
	n        int
	ncontrol int
	flags    int
	errno    syscall.Errno
	full     string                // descriptors were lost, and the table was this full
	lost     *atomic.Bool          // the Conn's: do not wait
	step     func(fd uintptr) bool // attempt

	// Of ReceiveBatch; n is the number of messages.
	batch *batch
	count int // 0: the message is that of header
	none  int // a message that is none, or -1
}

// receiver begins a receive: it waits for the one that is under way.
func (c *Conn) receiver() *receiver {
	c.receiving.Lock()
	if c.rx == nil {
		rx := &receiver{style: c.style, lost: &c.lost}
		rx.step = rx.attempt
		c.rx = rx
	}
	return c.rx
}

// attempt is one recvmsg(2) or recvmmsg(2); false means wait and call again.
func (rx *receiver) attempt(fd uintptr) bool {
	if rx.count > 0 {
		return rx.attemptBatch(fd)
	}
	for again := true; again; {
		rx.n, rx.ncontrol, rx.flags, rx.errno = rx.header.receive(int(fd), rx.nfds, rx.style)
		again = rx.style == socketpair.SeqPacket && (rx.resetFirst() || rx.nothing(rx.n, rx.ncontrol) && rx.firstEnd(int(fd)))
		if again {
			rx.header.again()
		}
	}
	rx.full = ""
	if rx.flags&unix.MSG_CTRUNC != 0 {
		rx.noteFull(int(fd))
	}
	return rx.errno != unix.EAGAIN || rx.lost.Load()
}

// resetFirst reports whether the call is to be made again, to see what is behind a reset.
func (rx *receiver) resetFirst() bool {
	if rx.errno != unix.ECONNRESET || rx.reset != none {
		return false
	}
	rx.reset = heldBack
	return true
}

// nothing reports whether a message may be none: the end of SOCK_SEQPACKET.
func (rx *receiver) nothing(n, ncontrol int) bool { return rx.errno == 0 && n == 0 && ncontrol == 0 }

// firstEnd reports whether nothing was received of an end that the kernel has told for the first time, which says
// nothing about the queue: recvmsg(2) that does not wait looks for a packet first, then for a shutdown, and the other
// end may have sent its last packets in between. After the shutdown none come, so all further calls tell the truth.
func (rx *receiver) firstEnd(fd int) bool {
	if !tellsEnd || rx.ended || !sysfd.HungUp(fd) {
		return false
	}
	rx.ended = true
	return true
}

// receive reads one message into p and the state of the receiver. Nobody has judged it yet.
func (c *Conn) receive(p []byte, maxFiles int) error {
	rx := c.rx
	if len(p) == 0 && c.style == socketpair.Stream {
		return &opError{op: "receive", kind: ErrTruncated, detail: "the buffer is empty", cause: os.ErrInvalid}
	}
	rx.nfds = maxFiles
	rx.header.set(p, rx.control[:])
	err := c.read(rx)
	rx.header.clear()
	if err == nil && rx.errno == 0 {
		return nil
	}
	return c.received(err)
}

// rightsRoom returns how many descriptors the control data has room for.
func (rx *receiver) rightsRoom() int { return max(rx.ncontrol-unix.CmsgLen(0), 0) / 4 }

// whole is the short way for what nearly all messages are: data that fits, and at most one SCM_RIGHTS with
// at most maxFiles descriptors that are above 2. It appends them to fds, which must have room. Whatever else
// came is for judge, to which nothing has happened.
func (rx *receiver) whole(size int, fds []int, maxFiles int) ([]int, bool) {
	if rx.n <= 0 || rx.n > size || rx.flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, false
	}
	return cmsg.Rights(rx.control[:rx.ncontrol], fds, min(maxFiles, cap(fds)))
}

// judgeOne is judge for the message of receive.
func (c *Conn) judgeOne(size int, fds []int, maxFiles int) (int, cmsg.Received, error) {
	rx := c.rx
	n, got, err := c.judge(rx.n, size, rx.control[:rx.ncontrol], rx.flags, fds, max(maxFiles, 0), true)
	if err == io.EOF {
		err = c.endError()
	}
	return n, got, err
}

// received says how a wait and its system call ended.
func (c *Conn) received(err error) error {
	switch {
	case c.lost.Load() && (err == os.ErrDeadlineExceeded || err == nil && c.rx.errno == unix.EAGAIN):
		return c.receiveError(unix.ECONNREFUSED)
	case err == nil && c.rx.errno != 0:
		return c.receiveError(c.rx.errno)
	}
	return err
}

// endError is io.EOF, or the reset that was held back until all that was queued had been read.
func (c *Conn) endError() error {
	if c.rx.reset == heldBack {
		c.rx.reset = told
		return c.receiveError(unix.ECONNRESET)
	}
	return io.EOF
}

// judge says whether a message came whole: of n bytes into a buffer of size, with control data and
// flags. If it did not, its descriptors are closed. mayEnd is false for one with others behind it.
func (c *Conn) judge(n, size int, control []byte, flags int, fds []int, maxFiles int, mayEnd bool) (int, cmsg.Received, error) {
	got := cmsg.Parse(control, fds)
	var err error
	switch {
	case flags&unix.MSG_CTRUNC != 0 || got.Refused > 0:
		err = c.filesLost(&got)
	case got.Malformed:
		err = &opError{op: "receive", kind: ErrMalformed}
	case n > size || flags&unix.MSG_TRUNC != 0:
		detail := fmt.Sprintf("%d bytes for %d", n, size)
		if n <= size { // not every system tells how long it was
			detail = fmt.Sprintf("more than %d bytes", size)
		}
		err = &opError{op: "receive", kind: ErrTruncated, detail: detail}
	case len(got.FDs) > maxFiles:
		err = &opError{op: "receive", kind: ErrTooManyFiles, detail: fmt.Sprintf("%d came, %d were asked for", len(got.FDs), maxFiles)}
	case n == 0 && len(got.FDs) == 0 && mayEnd && c.atEnd(got.HasCred):
		err = io.EOF
	default:
		err = raise(&got)
	}
	if err != nil {
		sysfd.Discard(append(got.FDs, got.PIDFD))
		return 0, cmsg.Received{}, err
	}
	return n, got, nil
}

// filesLost says why descriptors of a message did not arrive. The control buffer has room for
// everything, so it was not that. A table that is found full right after the call was full then;
// one that is not may have been.
func (c *Conn) filesLost(got *cmsg.Received) error {
	e := &opError{op: "receive", kind: ErrFilesLost, detail: fmt.Sprintf("%d arrived and are closed; ", len(got.FDs))}
	switch {
	case got.Refused > 0:
		e.detail += "a security module refused the others"
		e.cause = unix.EPERM
	case c.rx.full != "":
		e.detail += c.rx.full
		e.cause = unix.EMFILE
	default:
		e.detail += "the descriptor table was full for a moment, or a security module refused the others"
	}
	return e
}

// noteFull remembers how this process stands to its limit when descriptors were lost. It must come right
// after the system call: what is closed later makes room.
func (rx *receiver) noteFull(fd int) {
	if rx.full == "" && sysfd.Full(fd) {
		rx.full = sysfd.Usage()
	}
}

// raise keeps the numbers 0, 1 and 2 from being given to anybody.
func raise(got *cmsg.Received) (err error) {
	for i := range got.FDs {
		if got.FDs[i], err = sysfd.Raise(got.FDs[i]); err != nil {
			return tableFull("receive", ErrFilesLost, "a number above 2 is needed", err)
		}
	}
	if got.PIDFD, err = sysfd.Raise(got.PIDFD); err != nil {
		return tableFull("receive", ErrFilesLost, "a number above 2 is needed", err)
	}
	return nil
}

// atEnd tells the end of a connection from an empty message, both of which are 0 bytes.
func (c *Conn) atEnd(stamped bool) bool {
	switch c.style {
	case socketpair.Stream:
		return true // with SO_PASSCRED it comes with credentials {0,0,0}
	case socketpair.SeqPacket:
		if stamped {
			return false // a packet has credentials, the end has none
		}
		if !tellsEnd {
			return true
		}
	default:
		return false
	}
	end := true
	_ = sysfd.Control(c, func(fd int) error {
		if stamping(fd) {
			return nil
		}
		if !sysfd.HungUp(fd) {
			end = false // the other end can still send
		} else if queued, err := unix.IoctlGetInt(fd, ioctlQueued); err == nil && queued > 0 {
			end = false // nothing comes behind the end
		}
		return nil
	})
	return end
}

func (c *Conn) receiveError(errno syscall.Errno) error {
	e := &opError{op: "receive", cause: os.NewSyscallError("recvmsg", errno)}
	if gone(errno) {
		e.kind = ErrPeerGone
	}
	return e
}

// newSender makes an identity of what the kernel stamped on a message, or nil of what is none.
func newSender(got *cmsg.Received) *credentials.Sender {
	if !got.HasCred && got.PIDFD < 0 {
		return nil
	}
	stamp := credentials.Cred{PID: got.Cred.PID, UID: got.Cred.UID, GID: got.Cred.GID}
	if got.PIDFD < 0 {
		return credentials.NewSender(stamp, nil)
	}
	return credentials.NewSender(stamp, os.NewFile(uintptr(got.PIDFD), "pidfd"))
}
