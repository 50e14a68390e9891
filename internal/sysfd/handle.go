//go:build unix

package sysfd

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Handle owns a descriptor number that is not in the runtime's poller until somebody has to
// wait for it. Registering costs more than most messages.
//
// Whoever makes a system call on the number does it between Use and Done, and does not wait
// there. Who has to wait joins the poller and waits in the RawConn. Close wakes the waiting; the
// last user closes the number, so that nobody works on one that has gone to another file.
type Handle struct {
	fd    int
	state atomic.Int64 // users, negative (by closing) once Close was called

	join sync.Mutex
	file atomic.Pointer[os.File] // owns fd from the join on
	raw  syscall.RawConn         // of file
}

const closing = -1 << 62

// NewHandle takes fd over.
func NewHandle(fd int) *Handle { return &Handle{fd: fd} }

// Use returns the number and keeps it open until Done; false when the handle is closed.
func (h *Handle) Use() (fd int, ok bool) {
	for {
		n := h.state.Load()
		if n < 0 {
			return -1, false
		}
		if h.state.CompareAndSwap(n, n+1) {
			return h.fd, true
		}
	}
}

// Done ends a Use.
func (h *Handle) Done() {
	if h.state.Add(-1) == closing {
		h.release()
	}
}

// Joined returns the handle's RawConn if it is in the poller.
func (h *Handle) Joined() (syscall.RawConn, bool) {
	if h.file.Load() == nil {
		return nil, false
	}
	return h.raw, true
}

// Join puts the descriptor into the runtime's poller, once, and makes its open file description
// nonblocking, which the poller needs. It uses up no descriptor. An error is net.ErrClosed or the
// errno of fcntl(2).
func (h *Handle) Join() (syscall.RawConn, error) {
	if raw, ok := h.Joined(); ok {
		return raw, nil
	}
	fd, ok := h.Use()
	if !ok {
		return nil, net.ErrClosed
	}
	defer h.Done()
	h.join.Lock()
	defer h.join.Unlock()
	if raw, ok := h.Joined(); ok {
		return raw, nil
	}
	if err := StartPoller(); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "socket")
	raw, err := file.SyscallConn()
	if err != nil {
		// Cannot be: file is open. It owns the number, so the handle must know of it.
		h.file.Store(file)
		return nil, err
	}
	h.raw = raw
	h.file.Store(file)
	return raw, nil
}

// File joins the poller and returns the file that owns the number, for its deadlines. It stays
// the handle's.
func (h *Handle) File() (*os.File, error) {
	if _, err := h.Join(); err != nil {
		return nil, err
	}
	return h.file.Load(), nil
}

// SyscallConn lets a handle be a syscall.Conn. Its Control works without the poller, Read and
// Write join it.
func (h *Handle) SyscallConn() (syscall.RawConn, error) { return rawHandle{h}, nil }

// Close closes the number, once its last user is done, and wakes those who wait in the poller.
func (h *Handle) Close() error {
	for {
		n := h.state.Load()
		if n < 0 {
			return nil
		}
		if h.state.CompareAndSwap(n, n+closing) {
			if n == 0 {
				h.release()
			} else if file := h.file.Load(); file != nil {
				_ = file.SetDeadline(time.Unix(1, 0)) // whoever waits must not wait for the last user
			}
			return nil
		}
	}
}

func (h *Handle) release() {
	if file := h.file.Load(); file != nil {
		_ = file.Close()
		return
	}
	_ = unix.Close(h.fd)
}

type rawHandle struct{ h *Handle }

func (r rawHandle) Control(f func(fd uintptr)) error {
	fd, ok := r.h.Use()
	if !ok {
		return net.ErrClosed
	}
	defer r.h.Done()
	f(uintptr(fd))
	return nil
}

func (r rawHandle) Read(f func(fd uintptr) bool) error {
	raw, err := r.h.Join()
	if err != nil {
		return err
	}
	return r.h.waitError(raw.Read(f))
}

func (r rawHandle) Write(f func(fd uintptr) bool) error {
	raw, err := r.h.Join()
	if err != nil {
		return err
	}
	return r.h.waitError(raw.Write(f))
}

// waitError gives a wait that Close ended the name that it has everywhere. A RawConn of package os
// returns an error that is neither os.ErrClosed nor net.ErrClosed.
func (h *Handle) waitError(err error) error {
	if err != nil && h.state.Load() < 0 {
		return net.ErrClosed
	}
	return err
}
