//go:build !linux

package supervise

import (
	"errors"
	"io"
)

// Run is for Linux.
func Run(Config) (int, error) { return 0, errors.ErrUnsupported }

// Resume is for Linux.
func Resume(Config, int) (int, error) { return 0, errors.ErrUnsupported }

// Check is for Linux.
func Check(Config, int, io.Writer) error { return errors.ErrUnsupported }

// GuardCommand is for Linux.
const GuardCommand = "__guard"

// Guard is for Linux.
func Guard([]string, io.Reader) error { return errors.ErrUnsupported }
