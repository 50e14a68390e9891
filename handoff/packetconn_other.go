//go:build !linux

package handoff

import (
	"errors"
	"syscall"
)

func dropped(syscall.Conn) (uint32, error) { return 0, errors.ErrUnsupported }
