//go:build unix && !linux

package scm

import "errors"

// SetPassCred needs Linux; elsewhere it is errors.ErrUnsupported.
func (c *Conn) SetPassCred(bool) error { return unsupported("SO_PASSCRED") }

// SetPassPIDFD needs Linux; elsewhere it is errors.ErrUnsupported.
func (c *Conn) SetPassPIDFD(bool) error { return unsupported("SO_PASSPIDFD") }

// SetPassRights needs Linux; elsewhere it is errors.ErrUnsupported.
func (c *Conn) SetPassRights(bool) error { return unsupported("SO_PASSRIGHTS") }

func unsupported(option string) error {
	return &opError{op: "set option", detail: option, cause: errors.ErrUnsupported}
}

// sameSocket compares the numbers: this system has no name for a socket that could be compared.
func sameSocket(fd, own int) bool { return fd == own }

func stamping(int) bool { return false }
