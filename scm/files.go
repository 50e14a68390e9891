//go:build unix

package scm

import (
	"net"
	"os"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// Files are received descriptors. They stay numbers until one is taken; whoever passes a thousand
// of them on pays for no *os.File. Taking gives one to the caller, Close closes the rest. A copy
// of Files shares what is taken with the original. It is for one goroutine at a time.
type Files struct{ fds []int }

// Len returns how many descriptors came, taken ones included.
func (f *Files) Len() int { return len(f.fds) }

// Lend lends descriptor i without giving it away: to look at it with [Inspect] before it is taken, or to
// send it on. It is nil if there is no such descriptor. It must not be used when the descriptor was taken
// or closed.
func (f *Files) Lend(i int) syscall.Conn {
	if f == nil || i < 0 || i >= len(f.fds) || f.fds[i] < 0 {
		return nil
	}
	return sysfd.Lent(func() int { return f.fds[i] })
}

// Take gives descriptor i to the caller as a file: in the runtime's poller if its sender had put it
// into nonblocking mode, a mode that both share, and else not. It is nil if there is no such
// descriptor or it was taken before.
func (f *Files) Take(i int) *os.File {
	fd := f.TakeFD(i)
	if fd < 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), "received")
}

// TakeFD gives descriptor i to the caller as a number, -1 if there is none.
func (f *Files) TakeFD(i int) int {
	if f == nil || i < 0 || i >= len(f.fds) {
		return -1
	}
	fd := f.fds[i]
	f.fds[i] = -1
	return fd
}

// TakeConn gives descriptor i to the caller as a connection of package net, or as a datagram socket
// with a peer. Its open file description, which the sender may share, becomes nonblocking.
// After an error it is still in f: [ErrTaken], ENOTSOCK for another kind of file, EINVAL for a
// listener, ENOTCONN for a socket that is not connected.
func (f *Files) TakeConn(i int) (net.Conn, error) {
	return take(f, i, "connection", sysfd.Conn)
}

// TakeListener gives descriptor i to the caller as a listener. A Unix listener does not unlink its
// path when it is closed. After an error it is still in f: [ErrTaken], ENOTSOCK for another kind of
// file, EINVAL for a socket that does not listen, among them one that somebody shut down: no
// connection would ever come, and package net would wait for one.
func (f *Files) TakeListener(i int) (net.Listener, error) {
	return take(f, i, "listener", sysfd.Listener)
}

// TakePacketConn gives descriptor i to the caller as a packet socket. After an error it is still in
// f: [ErrTaken], ENOTSOCK for another kind of file, EINVAL for another style.
func (f *Files) TakePacketConn(i int) (net.PacketConn, error) {
	return take(f, i, "packet socket", sysfd.PacketConn)
}

// take gives descriptor i to a constructor, which takes it over if it succeeds.
func take[T any](f *Files, i int, what string, construct func(fd int) (T, error)) (T, error) {
	var none T
	if f == nil || i < 0 || i >= len(f.fds) || f.fds[i] < 0 {
		return none, ErrTaken
	}
	t, err := construct(f.fds[i])
	if err != nil {
		return none, errors.WithMessagef(err, "scm: take descriptor %d as a %s", i, what)
	}
	f.fds[i] = -1
	return t, nil
}

// Close closes the descriptors that nobody took, and waits as close(2) does: a sender can make that long,
// with SO_LINGER. It works twice, and on nil.
func (f *Files) Close() error {
	if f != nil {
		sysfd.CloseAll(f.fds)
	}
	return nil
}
