package main

import (
	"net"
	"os"
	"slices"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/socketpair"
)

// An end is a contender's end of a connection.
type end interface {
	send(*payload) error    // one message with all of it
	receive(*payload) error // one message with as much, and closes the descriptors
	close() error
}

// A contender is a way to pass descriptors. One of over and number is set, or pair alone.
type contender struct {
	name   string
	over   func(c *net.UnixConn) (end, error)                 // takes c over
	number func(fd int) (end, error)                          // takes fd, in blocking mode, over
	pair   func(style socketpair.Style) (a, b end, err error) // works in one process only
	only   []socketpair.Style                                 // nil: all of them
	max    int                                                // descriptors in a message, 0: no limit
	tcp    bool                                               // sends TCP sockets and not files
}

func (c *contender) can(style socketpair.Style, count int) bool {
	return (c.only == nil || slices.Contains(c.only, style)) && (c.max == 0 || count <= c.max)
}

// payload makes what it sends.
func (c *contender) payload(count int) (*payload, error) {
	if c.tcp {
		return newSockets(count)
	}
	return newPayload(count)
}

// ends makes a connected pair in this process.
func (c *contender) ends(style socketpair.Style) (a, b end, err error) {
	if c.pair != nil {
		return c.pair(style)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, int(style)|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if a, err = c.end(fds[0]); err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	if b, err = c.end(fds[1]); err != nil {
		_ = a.close()
		return nil, nil, err
	}
	return a, b, nil
}

// end makes an end of a socket, and closes it after an error.
func (c *contender) end(fd int) (end, error) {
	if c.number != nil {
		e, err := c.number(fd)
		if err != nil {
			_ = unix.Close(fd)
		}
		return e, err
	}
	f := os.NewFile(uintptr(fd), "pair")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	e, err := c.over(conn.(*net.UnixConn))
	if err != nil {
		_ = conn.Close()
	}
	return e, err
}

var contenders = slices.Concat(ours, theirs)

var errCount = errors.New("not the descriptors that were sent")
