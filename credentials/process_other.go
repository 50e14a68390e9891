//go:build unix && !linux

package credentials

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// No other system has a descriptor that pins a process.

func openProcess(int) (*Process, error) { return nil, errors.ErrUnsupported }

func pidOf(*os.File) (int, error) { return 0, errors.ErrUnsupported }

func processID(*os.File) ProcessID { return ProcessID{} }

func alive(*os.File) bool { return false }

func wait(context.Context, *os.File) error { return errors.ErrUnsupported }

func info(*os.File) (ProcessInfo, error) { return ProcessInfo{}, errors.ErrUnsupported }

func executable(*os.File, int) (string, error) { return "", errors.ErrUnsupported }

func signal(*os.File, syscall.Signal) error { return errors.ErrUnsupported }
