//go:build !fdkit_other && (dragonfly || freebsd || linux || netbsd || openbsd)

package sysfd

import "golang.org/x/sys/unix"

// Socketpair is socketpair(2) with both ends close-on-exec. After an error the array that the
// kernel may have written is not looked at: its numbers belong to somebody else by now.
func Socketpair(domain, style, protocol int) ([2]int, error) {
	_ = StartPoller() // as early as can be; who needs it asks again
	fds, err := unix.Socketpair(domain, style|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return [2]int{-1, -1}, err
	}
	return fds, nil
}
