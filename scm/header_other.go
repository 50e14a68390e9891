//go:build unix && (!linux || fdkit_other)

package scm

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/socketpair"
)

// A header is one message: sendmsg(2), recvmsg(2).
type header struct {
	p, control []byte
}

func (h *header) set(p, control []byte) { h.p, h.control = p, control }

func (h *header) again() {}

func (h *header) clear() { h.p, h.control = nil, nil }

// send is sendmsg(2). x/sys adds a byte to an empty message that has control data; Conn refuses those.
func (h *header) send(fd, _ int) (int, syscall.Errno) {
	for {
		n, err := unix.SendmsgN(fd, h.p, h.control, nil, unix.MSG_DONTWAIT|messageNoSignal)
		if errno := errnoOf(err); errno != unix.EINTR {
			return n, errno
		}
	}
}

// receive is recvmsg(2). The received descriptors are close-on-exec: by the flag where there is one,
// else under the fork lock.
func (h *header) receive(fd, _ int, _ socketpair.Style) (n, ncontrol, flags int, errno syscall.Errno) {
	p := h.p
	if len(p) == 0 {
		p = make([]byte, 1) // x/sys would use a byte of its own and report it
	}
	if messageCloexec == 0 {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
	}
	var err error
	for {
		n, ncontrol, flags, _, err = unix.Recvmsg(fd, p, h.control, unix.MSG_DONTWAIT|messageCloexec)
		if errno = errnoOf(err); errno != unix.EINTR {
			break
		}
	}
	if errno != 0 || err != nil {
		// x/sys may dislike the sender's address, and the descriptors are here all the same.
		sysfd.Discard(cmsg.Parse(h.control[:max(ncontrol, 0)], nil).FDs)
		if errno == 0 {
			errno = unix.EINVAL
		}
		return 0, 0, 0, errno
	}
	if messageCloexec == 0 {
		for _, fd := range cmsg.Parse(h.control[:ncontrol], nil).FDs {
			unix.CloseOnExec(fd)
		}
	}
	if n > len(h.p) {
		flags |= unix.MSG_TRUNC
	}
	return n, ncontrol, flags, 0
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return errno
}

// maxBatch is one: this system has no call for several messages, so a batch is a loop.
const maxBatch = 1

// A batch is one message.
type batch struct {
	header
	control            [maxBatch][cmsg.BufferSize]byte
	n, ncontrol, flags int
}

func (b *batch) rights(i int) []byte { return b.control[i][:0] }

func (b *batch) set(_ int, p []byte, ncontrol int) {
	b.header.set(p, b.control[0][:ncontrol])
}

func (b *batch) again() {}

func (b *batch) clear(int) { b.header.clear() }

func (b *batch) send(fd, _ int) (int, syscall.Errno) {
	var errno syscall.Errno
	if b.n, errno = b.header.send(fd, 0); errno != 0 {
		return 0, errno
	}
	return 1, 0
}

func (b *batch) receive(fd, _ int, style socketpair.Style) (int, syscall.Errno) {
	var errno syscall.Errno
	if b.n, b.ncontrol, b.flags, errno = b.header.receive(fd, 0, style); errno != 0 {
		return 0, errno
	}
	return 1, 0
}

func (b *batch) result(int) (n, ncontrol, flags int) { return b.n, b.ncontrol, b.flags }
