//go:build unix

package credentials

import (
	"net"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// Peer returns who connected the socket, or listened on its path: SO_PEERCRED on Linux, the pid and
// effective ids at the moment of connect(2) or listen(2); LOCAL_PEERCRED and LOCAL_PEERPID on
// macOS, LOCAL_PEERCRED on FreeBSD. On the end of a socketpair it is whoever made the pair, on
// either end: see [Exchange].
//
// It borrows c and does not block. A socket without such a peer is [ErrNoPeer], another file
// ENOTSOCK. Elsewhere it is errors.ErrUnsupported.
func Peer(c syscall.Conn) (Cred, error) {
	var cred Cred
	var err error
	if u, ok := c.(*net.UnixConn); ok && connected(u) {
		cred, err = peerOfUnixConn(u)
	} else {
		cred, err = sysfd.Ask(c, peer)
	}
	if err != nil {
		return Cred{}, errors.WithMessage(err, "credentials: ask for the peer")
	}
	return cred, nil
}

// peerOfUnixConn is sysfd.Ask without what makes that general, which is a tenth of its time.
func peerOfUnixConn(c *net.UnixConn) (cred Cred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var perr error
	if err := raw.Control(func(fd uintptr) { cred, perr = peerOfConnection(int(fd)) }); err != nil {
		return Cred{}, err
	}
	return cred, perr
}

// connected reports whether c is known to be a connection, without a system call: it had a peer when package
// net made it. It has not become a listener since: listen(2) refuses a socket that is or was connected.
func connected(c *net.UnixConn) bool { return c.RemoteAddr() != nil }

// PeerGroups returns the supplementary groups of the peer that [Peer] names, at the same moment:
// sorted, and without its primary group unless that is listed twice. SO_PEERGROUPS, Linux 4.13;
// LOCAL_PEERCRED on macOS and FreeBSD, where the system cuts the list at 16. Errors are those of
// Peer.
func PeerGroups(c syscall.Conn) ([]uint32, error) {
	groups, err := sysfd.Ask(c, peerGroups)
	return groups, errors.WithMessage(err, "credentials: ask for the peer's groups")
}

// PeerLabel returns the security label of the peer that [Peer] names, such as an SELinux context:
// SO_PEERSEC. Without a security module that has labels it is errors.ErrUnsupported.
func PeerLabel(c syscall.Conn) (string, error) {
	label, err := sysfd.Ask(c, peerLabel)
	return label, errors.WithMessage(err, "credentials: ask for the peer's label")
}

// PeerProcess pins the process that [Peer] names and gives it to the caller: SO_PEERPIDFD, Linux
// 6.5. This cannot be forged, and a reused pid does not deceive it.
//
// A process that has ended is a Process that is not Alive; before Linux 6.16 one that was also
// reaped is [ErrPeerGone]. A socket without a peer is [ErrNoPeer], an older kernel
// errors.ErrUnsupported, and at the descriptor limit, where Peer still works, the error matches
// EMFILE.
func PeerProcess(c syscall.Conn) (*Process, error) {
	p, err := sysfd.Ask(c, peerProcess)
	if err != nil {
		return nil, errors.WithMessage(err, "credentials: pin the peer")
	}
	return p, nil
}
