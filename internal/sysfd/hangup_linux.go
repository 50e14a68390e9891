package sysfd

import "golang.org/x/sys/unix"

// pollHangup is the event of a connection whose other end writes no more.
const pollHangup = unix.POLLRDHUP
