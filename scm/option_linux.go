package scm

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// SetPassCred sets SO_PASSCRED: each message that the other end sends from now on arrives with its
// writer's credentials, [Message.Sender], stamped by the kernel. Messages sent before, and a
// writer that the kernel cannot name here, have none. A datagram or SOCK_SEQPACKET socket with
// this option binds itself to an abstract name when it sends.
func (c *Conn) SetPassCred(on bool) error { return c.setOption(unix.SO_PASSCRED, on) }

// SetPassPIDFD sets SO_PASSPIDFD (Linux 6.5): [Message.Sender] has a pidfd of its process too. It
// needs SetPassCred. On an older kernel the error matches ENOPROTOOPT and errors.ErrUnsupported.
func (c *Conn) SetPassPIDFD(on bool) error { return c.setOption(unix.SO_PASSPIDFD, on) }

// SetPassRights sets SO_PASSRIGHTS (Linux 6.16), which is on by default: switched off, the other
// end cannot send descriptors any more and is told so, [ErrRefused]. What it sent before still
// arrives. Set it before the other end has its socket. On an older kernel the error matches
// ENOPROTOOPT and errors.ErrUnsupported.
func (c *Conn) SetPassRights(on bool) error { return c.setOption(unix.SO_PASSRIGHTS, on) }

func (c *Conn) setOption(option int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	err := sysfd.Control(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, value)
	})
	if err == nil {
		return nil
	}
	cause := os.NewSyscallError("setsockopt", err)
	if err == unix.ENOPROTOOPT {
		cause = sysfd.Unsupported(cause)
	}
	return &opError{op: "set option", cause: cause}
}

// sameSocket reports whether fd is the socket whose number is own. A socket is one open file, and Linux 6.10
// tells whether two numbers are the same: F_DUPFD_QUERY, which costs half of SO_COOKIE.
func sameSocket(fd, own int) bool {
	same, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(own), unix.F_DUPFD_QUERY, uintptr(fd))
	if errno == 0 {
		return same == 1
	}
	cookie := cookieOf(fd)
	return cookie != 0 && cookie == cookieOf(own)
}

// cookieOf returns the kernel's name for a socket, 0 for another file.
func cookieOf(fd int) uint64 {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0
	}
	return cookie
}

func stamping(fd int) bool {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED)
	return err == nil && on != 0
}
