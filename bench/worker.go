package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// The other process of a Go contender is this program again, with its end of a pair as descriptor 3.

// A job is what it does. In the environment of a process it makes that one.
type job struct {
	role      string // a key of roles
	contender string
	count     int
}

const jobVariable = "FDKIT_BENCH_JOB"

func (j job) String() string { return fmt.Sprintf("%s|%d|%s", j.role, j.count, j.contender) }

var roles = map[string]func(j job) error{
	// It answers each message with another one.
	"echo": func(j job) error {
		return j.work(func(e end, p *payload) error {
			if err := e.receive(p); err != nil {
				return err
			}
			return e.send(p)
		})
	},
	// It sends as fast as it can.
	"flood": func(j job) error {
		return j.work(func(e end, p *payload) error { return e.send(p) })
	},
	"flood in batches": func(j job) error {
		c, err := scm.Inherit(3)
		if err != nil {
			return err
		}
		p, err := newPayload(j.count)
		if err != nil {
			return err
		}
		for b := newBatches(c, nil, p); ; {
			if err := b.send(); err != nil {
				return err
			}
		}
	},
	"exchange": func(job) error {
		c, err := socketpair.Inherit(3)
		if err != nil {
			return err
		}
		for {
			who, err := credentials.Exchange(context.Background(), c)
			if err != nil {
				return err
			}
			if err := who.Close(); err != nil {
				return err
			}
		}
	},
}

func init() {
	roles["pair"] = func(j job) error { return repeat(j.contender, opSubjects(pairOps), nil) }
	roles["peer"] = func(j job) error {
		subjects, err := peerSubjects()
		return repeat(j.contender, subjects, err)
	}
}

// work does f until it fails.
func (j job) work(f func(e end, p *payload) error) error {
	i := slices.IndexFunc(contenders, func(c contender) bool { return c.name == j.contender })
	if i < 0 {
		return errors.New("no such contender")
	}
	unix.CloseOnExec(3)
	e, err := contenders[i].end(3)
	if err != nil {
		return err
	}
	p, err := contenders[i].payload(j.count)
	if err != nil {
		return err
	}
	for {
		if err := f(e, p); err != nil {
			return err
		}
	}
}

// doJob does what the environment says, and reports whether that was anything. It ends when the other
// process does.
func doJob() bool {
	text, ok := os.LookupEnv(jobVariable)
	if !ok {
		return false
	}
	var j job
	part := strings.SplitN(text, "|", 3)
	j.role, j.contender = part[0], part[2]
	_, _ = fmt.Sscan(part[1], &j.count)
	if err := roles[j.role](j); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", j, err)
	}
	return true
}

// command is this program doing j.
func (j job) command() (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), jobVariable+"="+j.String())
	return cmd, nil
}

// start starts the process that does j, over the other end of the socket that it returns.
func (j job) start(style socketpair.Style) (fd int, kill func(), err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, int(style)|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, os.NewSyscallError("socketpair", err)
	}
	child := os.NewFile(uintptr(fds[1]), "pair")
	defer child.Close()
	cmd, err := j.command()
	if err != nil {
		_ = unix.Close(fds[0])
		return -1, nil, err
	}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{child}
	if err := cmd.Start(); err != nil {
		_ = unix.Close(fds[0])
		return -1, nil, err
	}
	return fds[0], func() {
		_ = cmd.Process.Kill() // a datagram socket does not tell that its other end is gone
		_ = cmd.Wait()
	}, nil
}
