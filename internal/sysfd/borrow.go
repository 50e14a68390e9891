//go:build unix

package sysfd

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Control lends the descriptor of c to f. The number is valid inside f only, and f must not wait:
// the owner's Close waits for it.
func Control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return LendError(err)
	}
	return ferr
}

// Lend is Control of the RawConn of c. For the types of packages os and net it allocates nothing: the compiler
// knows what their SyscallConn returns and leaves it on the stack.
func Lend(c syscall.Conn, f func(fd uintptr)) error {
	switch c := c.(type) {
	case *os.File:
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return LendError(raw.Control(f))
	case *net.TCPConn:
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(f)
	case *net.TCPListener:
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(f)
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(f)
	case *net.UnixListener:
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(f)
	case *net.UDPConn:
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(f)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return LendError(raw.Control(f))
}

// Ask lends the descriptor of c to f, as Control does, and returns the answer. For a
// *net.UnixConn it allocates nothing if f is a plain function.
func Ask[T any](c syscall.Conn, f func(fd int) (T, error)) (T, error) {
	if u, ok := c.(*net.UnixConn); ok {
		return askUnixConn(u, f)
	}
	return askConn(c, f)
}

// askUnixConn is askConn for a type that the compiler knows: it sees through SyscallConn and
// Control, and RawConn and callback stay on the stack.
func askUnixConn[T any](c *net.UnixConn, f func(fd int) (T, error)) (v T, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return v, err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { v, ferr = f(int(fd)) }); err != nil {
		return v, err
	}
	return v, ferr
}

func askConn[T any](c syscall.Conn, f func(fd int) (T, error)) (v T, err error) {
	err = Control(c, func(fd int) (err error) {
		v, err = f(fd)
		return err
	})
	return v, err
}

// Raise moves fd away from 0, 1 and 2, which the kernel gives to a process that has closed them: a library
// that prints would write into the file. After an error fd is closed; a negative one it returns.
func Raise(fd int) (int, error) {
	if fd < 0 || fd > 2 {
		return fd, nil
	}
	dup, err := Dup(fd)
	_ = unix.Close(fd)
	return dup, err
}

// Dup returns another number for the open file of fd, close-on-exec and never 0, 1 or 2: a child
// or a library that prints would otherwise write into it.
func Dup(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
}
