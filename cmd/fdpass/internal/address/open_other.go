//go:build !linux

package address

import "errors"

// Open is for Linux.
func (a Address) Open(Options) (*Socket, error) { return nil, errors.ErrUnsupported }

// Remove removes the path that Open made.
func (s *Socket) Remove() error { return errors.ErrUnsupported }

// InPlace reports whether the path that Open made is still this socket.
func (s *Socket) InPlace() bool { return false }

// Close closes the number.
func (s *Socket) Close() {}
