package handoff

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// childVariable tells a successor that its predecessor has started it, and the number of its end of
// the socketpair.
const childVariable = "FDKIT_HANDOFF_FD"

// Upgrade starts Options.Program as the successor of this process and hands the service over to it. It
// returns nil when the successor serves for good; [Service.Stopping] is closed then. After an error
// this process serves, the error says why, and the successor has ended or been killed. A second
// Upgrade while one is under way is refused.
func (s *Service) Upgrade(ctx context.Context) error {
	c, pid, kill, err := s.startSuccessor()
	if err != nil {
		err = errors.WithMessage(err, "handoff: start the successor")
		if done, ok := s.beginHandoff(); ok {
			s.manager.reloads() // it may have asked for this and wait for the end
			done(err)
		}
		s.tell(Event{Kind: EventKept, Err: err})
		return err
	}
	if err = s.handOver(ctx, c, nil); err == nil {
		return nil
	}
	// It owns nothing and cannot come to own anything; it must not go on as if.
	if werr := kill(); werr != nil {
		err = errors.WithMessagef(err, "the successor, pid %d (%v)", pid, werr)
	}
	return err
}

// startChild starts cmd. kill kills it and returns when it has ended, with how that was, if that is known.
func (s *Service) startChild(cmd *exec.Cmd) (pid int, kill func() error, err error) {
	var wait func() error
	signal := func() error { return cmd.Process.Kill() }
	p, sibling, err := s.startSibling(cmd)
	switch {
	case sibling && err == nil:
		wait = func() error {
			defer p.Close()
			return p.Wait(context.Background())
		}
		signal = func() error { return p.Signal(syscall.SIGKILL) }
	case !sibling:
		if err = cmd.Start(); err == nil {
			reaped := s.initial.await(cmd.Process.Pid)
			wait = func() error {
				err := cmd.Wait()
				reaped(cmd.ProcessState)
				return err
			}
		}
	}
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- wait() }() // it must be reaped whenever it ends
	return cmd.Process.Pid, func() error {
		_ = signal()
		return <-ended
	}, nil
}

// startSuccessor starts the program with the other end of a new pair, and returns this one's. For the rest see
// startChild.
func (s *Service) startSuccessor() (c *scm.Conn, pid int, kill func() error, err error) {
	parent, child, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		return nil, 0, nil, err
	}
	defer child.Close() // with a copy here, nobody would see the end of the channel
	if c, err = scm.NewConn(parent); err != nil {
		_ = parent.Close()
		return nil, 0, nil, err
	}
	cmd := exec.Command(s.options.Program, s.options.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{child}
	cmd.Env = append(successorEnviron(), childVariable+"="+strconv.Itoa(3))
	if pid, kill, err = s.startChild(cmd); err != nil {
		_ = c.Close()
		return nil, 0, nil, err
	}
	return c, pid, kill, nil
}

// programPath is the path of this program as it was started.
func programPath() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return os.Executable()
	}
	return filepath.Abs(path)
}
