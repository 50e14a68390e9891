//go:build unix && !linux

package credentials

import (
	"context"
	"errors"
	"syscall"
)

func exchange(context.Context, syscall.Conn) (Sender, error) { return Sender{}, errors.ErrUnsupported }
