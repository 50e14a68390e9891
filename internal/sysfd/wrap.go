//go:build unix

package sysfd

import (
	"net"
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Listener makes a listener of package net of fd, which it closes: the listener has a number of its
// own. Its open file description becomes nonblocking. After an error fd is still the caller's: EINVAL
// for what does not listen or was shut down, ENOTSOCK for another kind of file, EMFILE because a second
// number is needed for a moment.
func Listener(fd int) (net.Listener, error) { return wrap(fd, true, net.FileListener) }

// Conn is Listener for a connection, or a datagram socket with a peer: EINVAL for a listener, ENOTCONN
// for a socket that is not connected.
func Conn(fd int) (net.Conn, error) {
	return wrap(fd, false, func(file *os.File) (net.Conn, error) {
		if err := Control(file, connected); err != nil {
			return nil, err
		}
		return net.FileConn(file)
	})
}

// PacketConn is Listener for a packet socket: EINVAL for a stream or SOCK_SEQPACKET, of which package net
// would make one too if it is AF_UNIX.
func PacketConn(fd int) (net.PacketConn, error) {
	return wrap(fd, false, func(file *os.File) (net.PacketConn, error) {
		if err := Control(file, connectionless); err != nil {
			return nil, err
		}
		return net.FilePacketConn(file)
	})
}

// wrap hands fd to one of package net's constructors, which work on a duplicate.
func wrap[T any](fd int, listening bool, construct func(*os.File) (T, error)) (T, error) {
	var none T
	if err := CheckListening(fd, listening); err != nil {
		return none, err
	}
	dup, err := Dup(fd)
	if err != nil {
		return none, errors.WithMessage(err, "a second number is needed for a moment; "+Usage())
	}
	file := os.NewFile(uintptr(dup), "socket")
	t, err := construct(file)
	_ = file.Close()
	if err != nil {
		return none, err
	}
	_ = unix.Close(fd)
	return t, nil
}

func connected(fd int) error {
	_, err := unix.Getpeername(fd)
	return os.NewSyscallError("getpeername", err)
}

func connectionless(fd int) error {
	style, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && (style == unix.SOCK_STREAM || style == unix.SOCK_SEQPACKET) {
		return errors.WithMessage(unix.EINVAL, "it is not a packet socket")
	}
	return os.NewSyscallError("getsockopt", err)
}
