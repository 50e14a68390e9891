package main

import (
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// stamp has the kernel stamp messages with credentials: those that arrive, and those that leave, whether the
// other end asks for them or not (unix(7)). undo sets the option, which others may share, back.
func stamp(c *scm.Conn) (undo func()) {
	before := 1
	_ = sysfd.Control(c, func(fd int) (err error) {
		before, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED)
		return err
	})
	if before != 0 || c.SetPassCred(true) != nil {
		return func() {}
	}
	return func() { _ = c.SetPassCred(false) }
}
