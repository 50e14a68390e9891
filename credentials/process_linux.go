package credentials

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

func openProcess(pid int) (*Process, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	switch err {
	case nil:
		return newProcess(os.NewFile(uintptr(pidfd), "pidfd"), pid), nil
	case unix.ENOSYS:
		return nil, sysfd.Unsupported(os.NewSyscallError("pidfd_open", err))
	case unix.EMFILE:
		return nil, errors.WithMessage(os.NewSyscallError("pidfd_open", err), sysfd.Usage())
	}
	return nil, done(os.NewSyscallError("pidfd_open", err))
}

// done adds os.ErrProcessDone to ESRCH.
func done(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return processDone{err}
	}
	return err
}

type processDone struct{ error }

func (e processDone) Unwrap() error        { return e.error }
func (e processDone) Is(target error) bool { return target == os.ErrProcessDone }

// pidOf reads the pid from fdinfo, which every kernel with pidfds has; 0 if it is not visible here
// or the process was reaped.
func pidOf(pidfd *os.File) (pid int, err error) {
	err = sysfd.Control(pidfd, func(fd int) error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "Pid:"); ok {
				pid, err = strconv.Atoi(strings.TrimSpace(value))
				pid = max(pid, 0)
				return err
			}
		}
		return errors.WithMessage(unix.EBADF, "not a pidfd")
	})
	return pid, err
}

func processID(pidfd *os.File) (id ProcessID) {
	_ = sysfd.Control(pidfd, func(fd int) error {
		var fs unix.Statfs_t
		var st unix.Stat_t
		// Before pidfs all pidfds share one inode.
		if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PID_FS_MAGIC && unix.Fstat(fd, &st) == nil {
			id = ProcessID{Dev: uint64(st.Dev), Ino: st.Ino}
		}
		return nil
	})
	return id
}

// alive asks the pidfd, which is readable from the end of the process on.
func alive(pidfd *os.File) bool {
	ended := true
	_ = sysfd.Control(pidfd, func(fd int) error {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, 0)
			if err != unix.EINTR {
				ended = err != nil || n > 0
				return nil
			}
		}
	})
	return !ended
}

// wait waits in the runtime's poller, which wants a nonblocking descriptor: a duplicate, so that
// pidfds that nobody waits for stay out of it.
func wait(ctx context.Context, pidfd *os.File) error {
	if !alive(pidfd) {
		return closedError(pidfd)
	}
	file, err := watch(pidfd)
	if errors.Is(err, unix.EMFILE) {
		return errors.WithMessage(err, sysfd.Usage())
	}
	if err != nil {
		return err
	}
	defer file.Close()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(uintptr) bool { return !alive(pidfd) })
	switch late := errors.Is(err, os.ErrDeadlineExceeded); {
	case late && alive(pidfd): // after a SIGSTOP the deadline may be older than the end
		return ctx.Err()
	case err != nil && !late:
		return err
	}
	return closedError(pidfd)
}

// watched is an epoll descriptor that watches a duplicate of a pidfd.
type watched struct {
	*os.File
	dup int
}

func (w *watched) Close() error {
	_ = unix.Close(w.dup)
	return w.File.Close()
}

// watch makes a descriptor that becomes readable when pidfd does and that the runtime's poller takes. It
// wants a nonblocking one, and the pidfd's own mode is not ours to change: os.Process waits on the same
// open file description, and would get EAGAIN. The duplicate keeps the watch when the pidfd is closed.
func watch(pidfd *os.File) (*watched, error) {
	if err := sysfd.StartPoller(); err != nil {
		return nil, err
	}
	dup := -1
	err := sysfd.Control(pidfd, func(fd int) (err error) {
		dup, err = sysfd.Dup(fd)
		return os.NewSyscallError("fcntl", err)
	})
	if err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		_ = unix.Close(dup)
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, dup, &unix.EpollEvent{Events: unix.EPOLLIN})
	if err == nil {
		err = unix.SetNonblock(epoll, true)
	}
	if err != nil {
		_ = unix.Close(dup)
		_ = unix.Close(epoll)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return &watched{File: os.NewFile(uintptr(epoll), "epoll"), dup: dup}, nil
}

// closedError tells a Process that was closed from one that has ended.
func closedError(pidfd *os.File) error {
	return sysfd.Control(pidfd, func(int) error { return nil })
}

func info(pidfd *os.File) (ProcessInfo, error) {
	pi := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS | unix.PIDFD_INFO_CGROUPID | unix.PIDFD_INFO_EXIT}
	err := sysfd.Control(pidfd, func(fd int) error {
		return os.NewSyscallError("ioctl", unix.IoctlPidfdInfo(fd, &pi))
	})
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
		return ProcessInfo{}, sysfd.Unsupported(err)
	case err != nil:
		return ProcessInfo{}, done(err)
	case pi.Mask&unix.PIDFD_INFO_PID == 0:
		return ProcessInfo{Exited: true, Status: syscall.WaitStatus(pi.Exit_code)}, nil
	}
	return ProcessInfo{
		PID: int(pi.Tgid), ParentPID: int(pi.Ppid), CgroupID: pi.Cgroupid,
		RealUID: pi.Ruid, RealGID: pi.Rgid, EffectiveUID: pi.Euid, EffectiveGID: pi.Egid,
		SavedUID: pi.Suid, SavedGID: pi.Sgid, FilesystemUID: pi.Fsuid, FilesystemGID: pi.Fsgid,
	}, nil
}

func executable(pidfd *os.File, pid int) (string, error) {
	if pid <= 0 && alive(pidfd) {
		return "", errors.WithMessage(unix.ESRCH, "the process is not visible in this pid namespace")
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if !alive(pidfd) { // what was read may be of another process with the same pid
		if err := closedError(pidfd); err != nil {
			return "", err
		}
		return "", os.ErrProcessDone
	}
	return exe, err
}

func signal(pidfd *os.File, sig syscall.Signal) error {
	if !alive(pidfd) { // one that was not reaped takes signals, and nothing comes of them
		if err := closedError(pidfd); err != nil {
			return err
		}
		return os.ErrProcessDone
	}
	return sysfd.Control(pidfd, func(fd int) error {
		return done(os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(fd, sig, nil, 0)))
	})
}
