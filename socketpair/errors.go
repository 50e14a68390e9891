//go:build unix

package socketpair

import "github.com/fdkit/fdkit/internal/sysfd"

// Errors of [Inherit].
var (
	// ErrClaimed: the number was claimed before in this process.
	ErrClaimed = sysfd.ErrClaimed

	// ErrNotUnix: the socket is not of the AF_UNIX namespace.
	ErrNotUnix = sysfd.ErrNotUnix

	// ErrListening: the socket listens; use net.FileListener.
	ErrListening = sysfd.ErrListening
)
