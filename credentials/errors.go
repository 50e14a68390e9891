//go:build unix

package credentials

import "errors"

var (
	// ErrNoPeer: the socket has no peer whose credentials the kernel keeps: it is not AF_UNIX, not
	// connected, listening, or a datagram socket that was connected to a path.
	ErrNoPeer = errors.New("the socket has no peer with credentials")

	// ErrPeerGone: the process at the other end has ended, and this kernel (before Linux 6.16) has no
	// pidfd of it any more; or the connection ended before an exchange was complete.
	ErrPeerGone = errors.New("the peer is gone")

	// ErrNoIdentity: the other end's message came, but the kernel's stamp names nobody: it was sent
	// without credentials, or by a process that has no pid or no uid in the namespaces of this one.
	ErrNoIdentity = errors.New("the peer did not prove who it is")

	// ErrForged: the message names a process that does not have the ids that were stamped with it. A
	// privileged sender may write any pid into its credentials.
	ErrForged = errors.New("the stamped pid belongs to somebody else")

	// ErrProtocol: what came is not the message of an exchange.
	ErrProtocol = errors.New("the peer does not speak the exchange")

	// ErrDenied: a Policy refused the peer. It matches os.ErrPermission as well.
	ErrDenied = errors.New("refused by policy")
)
