package handoff

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
)

// startSibling starts cmd as a child of this process's parent, if that is systemd: CLONE_PARENT of clone(2). It
// reports whether it has tried; then p is the process, for which the parent waits.
//
// When a unit stops, systemd does not wait for a main process that was not its child when it became the main one: it
// sends SIGTERM and, at once, SIGKILL (seen with 252). That it has become its child since, it does not notice.
func (s *Service) startSibling(cmd *exec.Cmd) (p *credentials.Process, tried bool, err error) {
	if s.manager == nil {
		return nil, false, nil
	}
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getppid()) + "/comm")
	if err != nil || string(comm) != "systemd\n" {
		return nil, false, nil
	}
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT, PidFD: &pidfd}
	if err := cmd.Start(); err != nil {
		return nil, true, err
	}
	if pidfd < 0 {
		return nil, true, errors.WithMessagef(ErrUnpinned, "process %d", cmd.Process.Pid)
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	if p, err = credentials.NewProcess(f); err != nil { // it has ended, and systemd has waited for it
		_ = f.Close()
	}
	return p, true, err
}
