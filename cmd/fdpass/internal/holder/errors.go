package holder

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrProtocol: the other side does not speak the protocol of s6-fdholder, or breaks a limit.
var ErrProtocol = errors.New("the other side breaks the s6-fdholder protocol")

// ErrName: a name is 1 to 255 bytes, none of them NUL.
var ErrName = errors.New("a name has 1 to 255 bytes, and no NUL")

// A StatusError is a holder's refusal. It matches its errno.
type StatusError struct {
	Op    string // what was asked for: "store"
	Name  string // of the descriptor, "" if it was not about one
	Errno syscall.Errno
}

func (e *StatusError) Error() string {
	what := e.Op
	if e.Name != "" {
		what += fmt.Sprintf(" %q", e.Name)
	}
	return what + ": " + e.why()
}

// why says what the errno means here.
func (e *StatusError) why() string {
	switch e.Errno {
	case syscall.ENOENT:
		return "the holder has no descriptor of this name"
	case syscall.EBUSY:
		return "the holder has a descriptor of this name already: delete it first, or take another name"
	case syscall.EPERM:
		return "the holder does not allow it to this user"
	case syscall.ENFILE:
		return "the holder is full (its --max)"
	case syscall.EDQUOT:
		return "this user holds as many descriptors as it may (the holder's --quota)"
	case syscall.EMFILE:
		return "the holder's descriptor table is full (its RLIMIT_NOFILE)"
	case syscall.ELOOP:
		return "it is a connection to the holder itself"
	case syscall.EAGAIN:
		return "this user has too many connections to the holder"
	}
	return "the holder answers: " + e.Errno.Error()
}

func (e *StatusError) Unwrap() error { return e.Errno }
