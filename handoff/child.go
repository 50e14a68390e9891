package handoff

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

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
	parent, child, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		return err
	}
	c, err := scm.NewConn(parent)
	if err != nil {
		_ = parent.Close()
		_ = child.Close()
		return err
	}
	cmd := exec.Command(s.options.Program, s.options.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{child}
	cmd.Env = append(os.Environ(), childVariable+"="+strconv.Itoa(3))
	err = cmd.Start()
	_ = child.Close() // with a copy here, nobody would see the end of the channel
	if err != nil {
		_ = c.Close()
		err = errors.WithMessage(err, "handoff: start the successor")
		s.tell(Event{Kind: EventKept, Err: err})
		return err
	}
	ended := make(chan error, 1)
	reaped := s.initial.await(cmd.Process.Pid)
	go func() { // it must be reaped whenever it ends
		err := cmd.Wait()
		reaped(cmd.ProcessState)
		ended <- err
	}()
	if err = s.handOver(ctx, c); err == nil {
		return nil
	}
	// It owns nothing and cannot come to own anything; it must not go on as if.
	_ = cmd.Process.Kill()
	if werr := <-ended; werr != nil {
		err = errors.WithMessagef(err, "the successor, pid %d (%v)", cmd.Process.Pid, werr)
	}
	return err
}

// programPath is the path of this program as it was started.
func programPath() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return os.Executable()
	}
	return filepath.Abs(path)
}
