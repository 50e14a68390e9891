//go:build unix

package sysfd

import "os"

// LendError gives the error of a RawConn of a closed *os.File the name that it has everywhere else.
// Package os returns one of internal/poll there, which nobody can compare with.
func LendError(err error) error {
	if err != nil && err.Error() == "use of closed file" {
		return os.ErrClosed
	}
	return err
}
