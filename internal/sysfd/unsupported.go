//go:build unix

package sysfd

import "errors"

// Unsupported makes err, the errno by which this kernel says that it does not know something,
// match errors.ErrUnsupported as well.
func Unsupported(err error) error { return unsupported{err} }

type unsupported struct{ err error }

func (u unsupported) Error() string        { return "not supported by this kernel: " + u.err.Error() }
func (u unsupported) Unwrap() error        { return u.err }
func (u unsupported) Is(target error) bool { return target == errors.ErrUnsupported }
