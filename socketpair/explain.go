//go:build unix

package socketpair

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// createError is a failed socketpair(2): what was asked for, what to change, and the errno.
type createError struct {
	text string
	err  error
}

// explain makes the text at once: how many descriptors are open is a fact of this moment.
func explain(namespace, style, protocol int, err error) error {
	text := fmt.Sprintf("socketpair: create a pair of %s, %s, protocol %d: %s: %v",
		namespaceName(namespace), Style(style), protocol, advice(namespace, err), os.NewSyscallError("socketpair", err))
	return &createError{text, err}
}

func (e *createError) Error() string { return e.text }

func (e *createError) Unwrap() error { return e.err }

// Is adds to the errnos that package syscall counts as unsupported those that mean the same here.
func (e *createError) Is(target error) bool {
	if target != errors.ErrUnsupported {
		return false
	}
	switch e.err {
	case unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT:
		return true
	}
	return false
}

func advice(namespace int, err error) string {
	name := namespaceName(namespace)
	switch err {
	case unix.EMFILE:
		return "it takes two free descriptors, and " + sysfd.Usage()
	case unix.ENFILE:
		return "the system has no two free files, see fs.file-max"
	case unix.EAFNOSUPPORT:
		return "this kernel does not know the namespace; use AF_UNIX"
	case unix.EPROTONOSUPPORT:
		if namespace == unix.AF_UNIX {
			return "AF_UNIX has one protocol, 0, and on some systems no SOCK_SEQPACKET"
		}
		return name + " does not have this protocol in this style, and pairs are made in AF_UNIX only"
	case unix.ESOCKTNOSUPPORT:
		if namespace == unix.AF_UNIX {
			return "AF_UNIX has the styles SOCK_STREAM, SOCK_DGRAM and SOCK_SEQPACKET"
		}
		return name + " does not have this style, and pairs are made in AF_UNIX only"
	case unix.EOPNOTSUPP:
		return name + " has such sockets, but not in pairs; use AF_UNIX"
	case unix.EINVAL:
		return "the style has unknown bits, or style or protocol are out of range"
	case unix.EACCES, unix.EPERM:
		return "such a socket needs a privilege, and pairs are made in AF_UNIX only"
	case unix.ENODEV:
		return name + " has no transport on this machine, and pairs are made in AF_UNIX only"
	case unix.ENOMEM, unix.ENOBUFS:
		return "the kernel is short of memory"
	}
	return "refused by the kernel"
}

// inheritError adds to the error of a claim what the parent may have forgotten.
func inheritError(err error) error {
	var advice string
	switch {
	case errors.Is(err, syscall.EBADF):
		advice = "no such descriptor; did the parent put it into ExtraFiles?"
	case errors.Is(err, syscall.ENOTSOCK):
		advice = "the descriptor is another kind of file"
	default:
		return err
	}
	return fmt.Errorf("%s: %w", advice, err)
}

func namespaceName(namespace int) string {
	switch namespace {
	case unix.AF_UNSPEC:
		return "AF_UNSPEC"
	case unix.AF_UNIX:
		return "AF_UNIX"
	case unix.AF_INET:
		return "AF_INET"
	case unix.AF_INET6:
		return "AF_INET6"
	}
	if name, ok := systemNamespaces[namespace]; ok {
		return name
	}
	return fmt.Sprintf("namespace %d", namespace)
}
