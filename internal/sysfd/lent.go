//go:build unix

package sysfd

import (
	"os"
	"syscall"
)

// A Lent is a syscall.Conn of a number that stays its owner's: the function returns it, negative when it
// is gone. It is for Control only, as nobody waits on what is lent.
type Lent func() int

// SyscallConn returns l.
func (l Lent) SyscallConn() (syscall.RawConn, error) { return l, nil }

// Control lends the number.
func (l Lent) Control(f func(fd uintptr)) error {
	fd := l()
	if fd < 0 {
		return os.ErrClosed
	}
	f(uintptr(fd))
	return nil
}

// Read is not for what is lent.
func (l Lent) Read(func(fd uintptr) bool) error { return os.ErrNoDeadline }

// Write is not for what is lent.
func (l Lent) Write(func(fd uintptr) bool) error { return os.ErrNoDeadline }
