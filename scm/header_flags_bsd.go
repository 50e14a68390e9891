//go:build !fdkit_other && (dragonfly || freebsd || netbsd || openbsd)

package scm

import "golang.org/x/sys/unix"

const (
	messageCloexec  = unix.MSG_CMSG_CLOEXEC
	messageNoSignal = unix.MSG_NOSIGNAL
)
