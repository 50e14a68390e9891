//go:build unix

package credentials

import (
	"context"
	"os"
	"syscall"

	"github.com/pkg/errors"
)

// A Process is a process that is pinned by a pidfd, pidfd_open(2): it means the same process for as
// long as it is open, also after that has ended and another one got its pid. Linux only; whoever
// gives one owns it and closes it.
//
// Its methods may be called from several goroutines, except Close.
type Process struct {
	pidfd *os.File
	pid   int
}

// ProcessID is the name of a process that is not used again until the machine boots: the identity
// of its pidfd. It is comparable. The zero ProcessID means that the kernel has none (before Linux
// 6.9) and is no process's name.
type ProcessID struct{ Dev, Ino uint64 }

// ProcessInfo is what the kernel says about a process now. Its ids may be others than when it
// connected or wrote: authorise with [Peer] or [Exchange], not with this.
type ProcessInfo struct {
	PID, ParentPID               int
	RealUID, RealGID             uint32
	EffectiveUID, EffectiveGID   uint32
	SavedUID, SavedGID           uint32
	FilesystemUID, FilesystemGID uint32
	CgroupID                     uint64

	// Exited is set when the process has ended and was reaped. Only Status is valid then, if the
	// kernel still has it (Linux 6.15), else it is 0.
	Exited bool
	Status syscall.WaitStatus
}

// OpenProcess pins the process that has this pid now: pidfd_open(2), Linux 5.3. Only a parent knows
// that its child's pid was not reused before; of another process prefer [PeerProcess]. A pid that
// nobody has is os.ErrProcessDone.
func OpenProcess(pid int) (*Process, error) {
	p, err := openProcess(pid)
	return p, errors.WithMessagef(err, "credentials: open process %d", pid)
}

// NewProcess makes a Process of a pidfd that came from somewhere else, such as
// syscall.SysProcAttr.PidFD or a message, and takes it over. After an error, EBADF for a file that
// is not a pidfd, the caller still owns it.
func NewProcess(pidfd *os.File) (*Process, error) {
	pid, err := pidOf(pidfd)
	if err != nil {
		return nil, errors.WithMessage(err, "credentials: make a process of a file")
	}
	return newProcess(pidfd, pid), nil
}

func newProcess(pidfd *os.File, pid int) *Process { return &Process{pidfd: pidfd, pid: pid} }

// PID returns the pid that the process had when it was pinned, 0 if it was not visible in this pid
// namespace. It may be somebody else's by now; signal with [Process.Signal].
func (p *Process) PID() int { return p.pid }

// ID returns the name of the process that is never reused. Two Processes are the same process if
// their IDs are equal and not zero.
func (p *Process) ID() ProcessID { return processID(p.pidfd) }

// Alive reports whether the process runs. A process that has ended and was not reaped is not alive.
func (p *Process) Alive() bool { return alive(p.pidfd) }

// Wait blocks until the process has ended or ctx is done, and returns ctx's error then. It takes
// two descriptors while it waits, and no thread. The process need not be a child and is not reaped.
func (p *Process) Wait(ctx context.Context) error {
	return errors.WithMessagef(wait(ctx, p.pidfd), "credentials: wait for process %d", p.pid)
}

// Info asks what the process is now: PIDFD_GET_INFO, Linux 6.13, else errors.ErrUnsupported. One
// that has ended and was reaped is os.ErrProcessDone, or an Info with Exited set where the kernel
// remembers it. A process in a pid namespace that this one cannot see into is EREMOTE.
func (p *Process) Info() (ProcessInfo, error) {
	info, err := info(p.pidfd)
	return info, errors.WithMessagef(err, "credentials: ask about process %d", p.pid)
}

// Exe returns the path of the program that the process runs, as /proc shows it. It is read between
// two looks at the pidfd, so it is of this process; but any process can execute any program it may
// read and can replace the file. For logs, never for authorisation. An ended process is
// os.ErrProcessDone, one of another user may be os.ErrPermission.
func (p *Process) Exe() (string, error) {
	exe, err := executable(p.pidfd, p.pid)
	return exe, errors.WithMessagef(err, "credentials: read the executable of process %d", p.pid)
}

// Signal sends a signal: pidfd_send_signal(2). Signal 0 only asks whether that is permitted. A
// process that is not [Process.Alive] is os.ErrProcessDone, one that may not be signalled
// os.ErrPermission.
func (p *Process) Signal(sig syscall.Signal) error {
	return errors.WithMessagef(signal(p.pidfd, sig), "credentials: send %v to process %d", sig, p.pid)
}

// SyscallConn lends the pidfd, to send it on.
func (p *Process) SyscallConn() (syscall.RawConn, error) { return p.pidfd.SyscallConn() }

// Close closes the pidfd. It works twice, and on nil.
func (p *Process) Close() error {
	if p == nil || p.pidfd == nil {
		return nil
	}
	err := p.pidfd.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
