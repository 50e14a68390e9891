//go:build linux && !fdkit_other

package scm

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/socketpair"
)

// brief is the number of descriptors up to which a message is sent or received without telling the
// scheduler. 253 of them hold the processor for tens of microseconds.
const brief = 16

// A header is one message in the form of the system calls: sendmsg(2), recvmsg(2). It lives in the
// Conn, so that a call allocates nothing.
type header struct {
	msg unix.Msghdr
	iov unix.Iovec
}

// set makes p and control the next message. An empty p is a part without bytes.
func (h *header) set(p, control []byte) {
	h.iov.Base = unsafe.SliceData(p)
	h.iov.SetLen(len(p))
	h.msg.Iov = &h.iov
	h.msg.SetIovlen(1)
	h.msg.Control = unsafe.SliceData(control)
	h.msg.SetControllen(len(control))
	h.msg.Flags = 0
}

// again makes room for control data where the call before has said how much came.
func (h *header) again() { h.msg.SetControllen(cmsg.BufferSize) }

// clear lets go of the caller's buffer.
func (h *header) clear() {
	h.iov.Base = nil
}

// send is sendmsg(2). MSG_NOSIGNAL: a stream whose other end is gone raises SIGPIPE otherwise.
func (h *header) send(fd, nfds int) (int, syscall.Errno) {
	return messageCall(unix.SYS_SENDMSG, fd, unsafe.Pointer(&h.msg), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nfds)
}

// receive is recvmsg(2). It returns the length of the message, which is more than the buffer for a
// packet that does not fit, and how much control data came.
func (h *header) receive(fd, nfds int, style socketpair.Style) (n, ncontrol, flags int, errno syscall.Errno) {
	n, errno = messageCall(unix.SYS_RECVMSG, fd, unsafe.Pointer(&h.msg), receiveFlags(style), nfds)
	return n, int(h.msg.Controllen), int(h.msg.Flags), errno
}

func receiveFlags(style socketpair.Style) int {
	flags := unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC
	if style != socketpair.Stream {
		flags |= unix.MSG_TRUNC // the real length
	}
	return flags
}

// messageCall does not go through x/sys, whose way is longer: after a system call each branch is a surprise
// to the processor.
func messageCall(trap uintptr, fd int, msg unsafe.Pointer, flags, nfds int) (int, syscall.Errno) {
	for {
		var n uintptr
		var errno syscall.Errno
		if nfds <= brief {
			n, _, errno = syscall.RawSyscall6(trap, uintptr(fd), uintptr(msg), uintptr(flags), 0, 0, 0)
		} else {
			n, _, errno = syscall.Syscall(trap, uintptr(fd), uintptr(msg), uintptr(flags))
		}
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// maxBatch is the number of messages that one system call of a batch moves. More gains nothing.
const maxBatch = 16

// A batch is several messages in the form of sendmmsg(2) and recvmmsg(2).
type batch struct {
	msgs    [maxBatch]unix.Mmsghdr
	iovs    [maxBatch]unix.Iovec
	control [maxBatch][cmsg.BufferSize]byte
}

// rights returns the empty room for the control data of message i.
func (b *batch) rights(i int) []byte { return b.control[i][:0] }

func (b *batch) set(i int, p []byte, ncontrol int) {
	m := &b.msgs[i]
	*m = unix.Mmsghdr{}
	b.iovs[i] = unix.Iovec{}
	if len(p) > 0 {
		b.iovs[i].Base = &p[0]
		b.iovs[i].SetLen(len(p))
		m.Hdr.Iov = &b.iovs[i]
		m.Hdr.SetIovlen(1)
	}
	if ncontrol > 0 {
		m.Hdr.Control = &b.control[i][0]
		m.Hdr.SetControllen(ncontrol)
	}
}

// again is that of a header, for the first message.
func (b *batch) again() { b.msgs[0].Hdr.SetControllen(cmsg.BufferSize) }

func (b *batch) clear(n int) {
	for i := range n {
		b.iovs[i].Base = nil
	}
}

// send is sendmmsg(2) for the first n messages. It stops at the first that fails; the error is told
// if that was the first.
func (b *batch) send(fd, n int) (int, syscall.Errno) {
	return b.call(unix.SYS_SENDMMSG, fd, n, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// receive is recvmmsg(2).
func (b *batch) receive(fd, n int, style socketpair.Style) (int, syscall.Errno) {
	return b.call(unix.SYS_RECVMMSG, fd, n, receiveFlags(style))
}

func (b *batch) call(trap uintptr, fd, count, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(count), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// result returns what came of message i.
func (b *batch) result(i int) (n, ncontrol, flags int) {
	m := &b.msgs[i]
	return int(m.Len), int(m.Hdr.Controllen), int(m.Hdr.Flags)
}
