//go:build unix

package main

import (
	"math"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A number is a descriptor that this process inherited. It is lent by its number and stays as it is:
// an *os.File would close it some time.
type number int

// SyscallConn returns n, of which only Control works.
func (n number) SyscallConn() (syscall.RawConn, error) { return n, nil }

// Control lends the number.
func (n number) Control(f func(fd uintptr)) error {
	f(uintptr(n))
	return nil
}

// Read is not for what is lent.
func (n number) Read(func(fd uintptr) bool) error { return os.ErrNoDeadline }

// Write is not for what is lent.
func (n number) Write(func(fd uintptr) bool) error { return os.ErrNoDeadline }

// inherited says whether the number is open and came from whoever started this process. What the program
// opens itself is close-on-exec, and what was inherited cannot be.
func (n number) inherited() bool {
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// parseNumber reads the number of an inherited descriptor.
func parseNumber(text string) (number, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n > math.MaxInt32 {
		return -1, usagef("%q is not the number of a descriptor, file:PATH or an address such as tcp://HOST:PORT", text)
	}
	if !number(n).inherited() {
		return -1, usagef("descriptor %d is not open here: open it in the shell, as in %d</etc/hosts", n, n)
	}
	return number(n), nil
}

// inheritedNumbers are the numbers of all descriptors that this process inherited.
func inheritedNumbers() ([]number, error) {
	folder := "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		if entries, err = os.ReadDir("/dev/fd"); err != nil {
			return nil, err
		}
	}
	var numbers []number
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err == nil && number(n).inherited() {
			numbers = append(numbers, number(n))
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}
