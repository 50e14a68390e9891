//go:build unix && (fdkit_other || !(dragonfly || freebsd || linux || netbsd || openbsd))

package sysfd

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Socketpair is socketpair(2) with both ends close-on-exec. This system has no SOCK_CLOEXEC, so
// the fork lock keeps a child from inheriting the ends before they are marked.
func Socketpair(domain, style, protocol int) ([2]int, error) {
	_ = StartPoller() // as early as can be; who needs it asks again
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(domain, style, protocol)
	if err != nil {
		return [2]int{-1, -1}, err
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return fds, nil
}
