//go:build !linux

package main

import "errors"

func (w *waiting) wait([]string) error { return errors.ErrUnsupported }

func (w *waiting) stay([]string) error { return errors.ErrUnsupported }
