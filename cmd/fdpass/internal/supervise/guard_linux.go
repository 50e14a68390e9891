package supervise

import (
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// GuardCommand is the name of fdpass's hidden command for a guard: "fdpass __guard SIGNAL PID…".
//
// Between execve(2) and the first lines of a Go program some milliseconds pass, many on a busy machine, in which
// SIGTERM ends it: the runtime lets nobody block it. The generations would go on with nobody to supervise
// them. So a process watches over that moment, and if the supervisor ends in it, whatever the reason,
// the guard tells them to stop.
const GuardCommand = "__guard"

// released is what a guard is told when all went well.
var released = []byte{1}

// startGuard starts a guard and returns the descriptor that it watches: releaseGuard, or it acts when the
// last copy is closed.
func (s *Supervisor) startGuard() (fd int, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return -1, os.NewSyscallError("pipe", err)
	}
	defer func() { _ = unix.Close(pipe[0]) }()
	args := []string{"fdpass", GuardCommand, strconv.Itoa(int(s.Stop))}
	for _, g := range s.generations {
		if !g.stopped {
			args = append(args, strconv.Itoa(g.pid))
		}
	}
	_, _, err = syscall.StartProcess("/proc/self/exe", args, &syscall.ProcAttr{Env: os.Environ(),
		Files: []uintptr{uintptr(pipe[0]), 1, s.stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		_ = unix.Close(pipe[1])
		return -1, &os.PathError{Op: "start", Path: "guard", Err: err}
	}
	return pipe[1], nil
}

// releaseGuard ends a guard, and closes fd.
func releaseGuard(fd int) {
	_, _ = unix.Write(fd, released)
	_ = unix.Close(fd)
}

// Guard is the guard: in is its end of the pipe.
func Guard(args []string, in io.Reader) error {
	if n, err := in.Read(make([]byte, len(released))); n > 0 || err == nil {
		return nil
	}
	numbers := make([]int, len(args))
	for i, arg := range args {
		var err error
		if numbers[i], err = strconv.Atoi(arg); err != nil {
			return errors.Errorf("%s is for fdpass itself", GuardCommand)
		}
	}
	for i, pid := range numbers {
		// Nobody holds the pid any more; but who leads a group of that number is hardly another.
		if group, err := unix.Getpgid(pid); i > 0 && err == nil && group == pid {
			_ = unix.Kill(pid, syscall.Signal(numbers[0]))
		}
	}
	return errors.New("serve ended while it was replaced: its program was told to stop")
}
