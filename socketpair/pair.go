//go:build unix

package socketpair

import (
	"net"
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// New makes a connected pair of AF_UNIX sockets of the given style and gives both ends to the
// caller. They are in the runtime's poller: deadlines work, and Close wakes a blocked Read.
//
// Two descriptors are open afterwards; while New runs it needs three. At the descriptor limit the
// error matches EMFILE and nothing is open. A style that AF_UNIX does not have here matches
// errors.ErrUnsupported, see [Create].
func New(style Style) (a, b *net.UnixConn, err error) {
	fds, err := create(unix.AF_UNIX, int(style), 0)
	if err != nil {
		return nil, nil, err
	}
	if a, err = conn(fds[0]); err != nil {
		sysfd.CloseAll(fds[1:])
		return nil, nil, err
	}
	if b, err = conn(fds[1]); err != nil {
		_ = a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// ForChild makes a pair of which one end is for a child process: put it into
// [os/exec.Cmd.ExtraFiles], start the child, close it here, and let the child call [Inherit] with
// its number (3 for the first of ExtraFiles). Until child is closed here, parent sees no end of
// the stream when the child dies.
//
// The caller owns both. The open file description of child is in blocking mode, as any program
// expects of a descriptor that it inherits; parent is in the runtime's poller, as from [New]. The
// two do not share the mode. Errors are those of New.
func ForChild(style Style) (parent *net.UnixConn, child *os.File, err error) {
	fds, err := create(unix.AF_UNIX, int(style), 0)
	if err != nil {
		return nil, nil, err
	}
	if parent, err = conn(fds[0]); err != nil {
		sysfd.CloseAll(fds[1:])
		return nil, nil, err
	}
	return parent, os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// Create is socketpair(2) for any namespace (AF_UNIX, …), style (SOCK_STREAM, …, and SOCK_NONBLOCK
// where the system has it) and protocol. It gives both ends to the caller, close-on-exec, in
// blocking mode unless SOCK_NONBLOCK is in style; then they are in the runtime's poller and have
// deadlines. Linux makes pairs of AF_UNIX only, and takes SOCK_RAW there for SOCK_DGRAM without
// a word: ask SO_TYPE what you got.
//
// The error says what to change and keeps the errno reachable for errors.Is:
//
//   - EMFILE, ENFILE: this process, the whole system, has not two free descriptors. The kernel
//     looks at this first, so it says nothing about the other arguments.
//   - EAFNOSUPPORT: the kernel does not know the namespace.
//   - EPROTONOSUPPORT: the namespace does not have the protocol.
//   - ESOCKTNOSUPPORT: the namespace does not have the style (Linux says so apart from the above).
//   - EOPNOTSUPP: the namespace has such sockets, but not in pairs.
//   - EINVAL: unknown bits in style, or a style or protocol out of range.
//   - EACCES, EPERM: such a socket needs a privilege.
//   - ENODEV: the namespace has no transport here (AF_VSOCK).
//
// What the system does not have, the middle four of them, matches errors.ErrUnsupported as well.
func Create(namespace, style, protocol int) (a, b *os.File, err error) {
	fds, err := create(namespace, style, protocol)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

func create(namespace, style, protocol int) ([2]int, error) {
	fds, err := sysfd.Socketpair(namespace, style, protocol)
	if err != nil {
		return fds, explain(namespace, style, protocol, err)
	}
	return fds, nil
}

// conn makes a connection of fd and takes it over; after an error fd is closed. Only FileConn
// makes a *net.UnixConn, and it works on a duplicate. fd is in blocking mode so far, which keeps
// the short-lived file out of the poller, and FileConn sets the nonblocking mode that both share.
func conn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	err := sysfd.StartPoller()
	var c net.Conn
	if err == nil {
		c, err = net.FileConn(f)
	}
	_ = f.Close()
	if err != nil {
		return nil, errors.WithMessage(err, "socketpair: make a connection of an end")
	}
	return c.(*net.UnixConn), nil
}
