package inherit

import (
	"math"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Hand becomes the stub that becomes the program, in place. The sockets are close-on-exec no longer. It
// returns only with an error.
func (p *Program) Hand(env []string) error {
	args, err := p.Command()
	if err != nil {
		return err
	}
	for _, s := range p.Sockets {
		if _, err := unix.FcntlInt(uintptr(s.FD), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	return &os.PathError{Op: "exec", Path: "/proc/self/exe", Err: syscall.Exec("/proc/self/exe", args, env)}
}

// Become executes the program in place, in a process that does nothing else: the sockets get their
// numbers, all other descriptors from 3 up are closed, signals are neither blocked nor ignored by us. It
// returns only with an error, and then the descriptors are no longer what they were.
func (p *Program) Become() error {
	way, err := Find(p.Way)
	if err != nil {
		return err
	}
	env, err := p.Environment(os.Environ(), os.Getpid(), os.Getppid())
	if err != nil {
		return err
	}
	if p.Dir != "" {
		if err := os.Chdir(p.Dir); err != nil {
			return err
		}
	}
	if err := arrange(p.Sockets, way.First); err != nil {
		return err
	}
	signal.Reset()
	runtime.LockOSThread() // the signal mask is the thread's, and exec(2) keeps it
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return os.NewSyscallError("sigprocmask", err)
	}
	return &os.PathError{Op: "exec", Path: p.Path, Err: syscall.Exec(p.Path, p.Args, env)}
}

// arrange gives the sockets the numbers from first on.
func arrange(sockets []Socket, first int) error {
	end := max(3, first+len(sockets))
	// Out of the way first: one may sit on the number that another is to have.
	aside := make([]int, len(sockets))
	for i, s := range sockets {
		fd, err := unix.FcntlInt(uintptr(s.FD), unix.F_DUPFD_CLOEXEC, end)
		if err != nil {
			return errors.WithMessagef(os.NewSyscallError("fcntl", err), "descriptor %d", s.FD)
		}
		aside[i] = fd
	}
	for i, fd := range aside {
		if err := unix.Dup3(fd, first+i, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return closeFrom(end)
}

// closeFrom marks all descriptors from fd up close-on-exec.
func closeFrom(fd int) error {
	err := unix.CloseRange(uint(fd), math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil || err != unix.ENOSYS && err != unix.EINVAL { // Linux 5.11
		return os.NewSyscallError("close_range", err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var n int
		for _, c := range e.Name() {
			n = 10*n + int(c-'0')
		}
		if n >= fd {
			unix.CloseOnExec(n)
		}
	}
	return nil
}
