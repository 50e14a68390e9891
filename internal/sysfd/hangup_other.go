//go:build unix && !linux

package sysfd

import "golang.org/x/sys/unix"

// pollHangup is the event of a connection whose other end is closed.
const pollHangup = unix.POLLHUP
