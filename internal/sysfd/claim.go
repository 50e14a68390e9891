//go:build unix

package sysfd

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Why an inherited number cannot be claimed. Packages socketpair and scm publish them.
var (
	ErrClaimed   = errors.New("this inherited descriptor was claimed before")
	ErrNotUnix   = errors.New("not an AF_UNIX socket, and only those carry descriptors")
	ErrListening = errors.New("a listening socket, not a connection")
)

var claims struct {
	sync.Mutex
	numbers map[int]bool
}

// ClaimUnix claims the inherited number fd, which must be an AF_UNIX socket that does not listen.
// After an error nothing has changed. The number stays claimed until Unclaim.
//
// An inherited number is a promise of the parent that can be kept once. Claimed twice it would
// close, at the second Close, whatever file has got the number meanwhile.
func ClaimUnix(fd int) error { return Claim(fd, CheckUnix) }

// Claim is ClaimUnix with another check.
func Claim(fd int, check func(fd int) error) error {
	_ = StartPoller() // as early as can be; who needs it asks again
	claims.Lock()
	defer claims.Unlock()
	if claims.numbers[fd] {
		return ErrClaimed
	}
	if err := check(fd); err != nil {
		return err
	}
	if claims.numbers == nil {
		claims.numbers = make(map[int]bool)
	}
	claims.numbers[fd] = true
	return nil
}

// Unclaim takes a claim back that came to nothing.
func Unclaim(fd int) {
	claims.Lock()
	defer claims.Unlock()
	delete(claims.numbers, fd)
}

// CheckUnix returns nil if fd is an AF_UNIX socket that does not listen, else ErrNotUnix,
// ErrListening, or the errno of getsockopt(2): EBADF, ENOTSOCK.
func CheckUnix(fd int) error {
	domain, err := domain(fd)
	if err != nil {
		return err
	}
	if domain != unix.AF_UNIX {
		return ErrNotUnix
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if listening != 0 {
		return ErrListening
	}
	return nil
}
