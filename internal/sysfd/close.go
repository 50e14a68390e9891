//go:build unix

package sysfd

import "golang.org/x/sys/unix"

// CloseAll closes every number of fds that is not negative and sets it to -1. Errors of close(2)
// are not reported: the number is free after any of them.
func CloseAll(fds []int) {
	for i := 0; i < len(fds); {
		// Descriptors that arrive together usually have consecutive numbers.
		run := 1
		for i+run < len(fds) && fds[i] >= 0 && fds[i+run] == fds[i]+run {
			run++
		}
		if fds[i] >= 0 {
			closeRun(fds[i], run)
		}
		for j := range run {
			fds[i+j] = -1
		}
		i += run
	}
}

func closeEach(first, n int) {
	for i := range n {
		_ = unix.Close(first + i)
	}
}
