//go:build unix

package credentials

import (
	"context"
	"syscall"

	"github.com/pkg/errors"
)

// Exchange proves to each end of a connected AF_UNIX socket who the other end is now. Both call it,
// in any order, at any time before they send anything else; each sends one message of 16 bytes that
// the kernel stamps with the writer's pid and real ids, and receives the other's. It tells the
// truth where [Peer] cannot: over a socketpair that a child inherited, over a connection that was
// handed on.
//
// It borrows c, any syscall.Conn with deadlines on a socket of any style: a *net.UnixConn, an
// scm.Conn. It gives the Sender to the caller, to Close. It blocks until the other end has answered
// or ctx is done; a datagram pair has no end, so there it waits for ctx if the other process dies.
// Nobody may read or write c meanwhile, and c has no deadlines afterwards. After an error the
// connection is of no use. Behind the message nothing is consumed. A process that is to change its
// real ids does so before its own Exchange or after the other end's has returned: in between they
// are not those of its stamp.
//
// Errors: [ErrNoIdentity] if the other end's message names nobody visible here, [ErrForged] if the
// process whose pid it names has other real ids than it (Linux 6.13), [ErrProtocol] if something
// else came, with the descriptors that came along closed; [ErrPeerGone]; [ErrNoPeer] for another
// kind of socket; os.ErrNoDeadline for a blocking file; ctx's error. Linux; elsewhere
// errors.ErrUnsupported.
//
// Its limit: the kernel lets a sender that is privileged in its user namespace write any existing
// pid, with CAP_SYS_ADMIN, and any uid that is mapped there, with CAP_SETUID. Root can claim to be
// anybody; whoever is not root cannot. Only [PeerProcess] on a connection to a path is proof against
// root.
func Exchange(ctx context.Context, c syscall.Conn) (Sender, error) {
	s, err := exchange(ctx, c)
	return s, errors.WithMessage(err, "credentials: exchange")
}
