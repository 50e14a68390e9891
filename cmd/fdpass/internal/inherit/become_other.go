//go:build !linux

package inherit

import "errors"

// Hand is for Linux.
func (p *Program) Hand([]string) error { return errors.ErrUnsupported }

// Become is for Linux.
func (p *Program) Become() error { return errors.ErrUnsupported }
