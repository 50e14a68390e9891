//go:build unix

package socketpair

import (
	"net"
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// Inherit makes a connection of the AF_UNIX socket that this process inherited under the number
// fd: the end that its parent got from [ForChild]. It takes the number over and gives the caller
// the connection. After an error the number is as it was.
//
// A number can be claimed once in the life of a process, here or with scm.Inherit; the second
// claim is [ErrClaimed], because by then the number may belong to another file. The socket becomes
// close-on-exec, nonblocking, and part of the runtime's poller. A number that is not open is
// EBADF, another kind of file ENOTSOCK, another namespace [ErrNotUnix], a listening socket
// [ErrListening]. Whether it is connected is not asked: a bound datagram socket need not be.
func Inherit(fd uintptr) (*net.UnixConn, error) {
	number := int(fd)
	if err := sysfd.ClaimUnix(number); err != nil {
		return nil, errors.WithMessagef(inheritError(err), "socketpair: inherit descriptor %d", fd)
	}
	// A file of the number itself would close it when the rest fails, and it is not ours before.
	dup, err := sysfd.Dup(number)
	if err != nil {
		sysfd.Unclaim(number)
		return nil, errors.WithMessagef(os.NewSyscallError("fcntl", err), "socketpair: inherit descriptor %d", fd)
	}
	c, err := conn(dup)
	if err != nil {
		sysfd.Unclaim(number)
		return nil, err
	}
	_ = unix.Close(number)
	return c, nil
}
