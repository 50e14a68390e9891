package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/systemd"
)

func init() { commands = append(commands, newNotify) }

// notification is the command line of notify.
type notification struct {
	ready, reloading, stopping bool
	status, pid, fdname        string
	fds                        []int
	barrier, noBlock           bool
	timeout                    time.Duration
}

func newNotify() *cobra.Command {
	var n notification
	c := &cobra.Command{
		Use:     "notify [flags] [VARIABLE=VALUE...]",
		GroupID: "ready",
		Short:   "Tell the service manager that the service is ready, reloads, stops",
		Long: `Tell the service manager at $NOTIFY_SOCKET how the service is: sd_notify(3), for shell
scripts. It speaks in the name of the process that started it if it may (as root), else in its own, which a
manager believes with NotifyAccess=all.

It waits until the manager has handled the message, so that it is not gone when the manager looks who it
was; --no-block does not wait. Descriptors that are named by --fd go into the manager's store, and the
next process of the service gets them (FileDescriptorStoreMax=).`,
		Example: `  fdpass notify --ready --status "serving on port 8080"
  fdpass notify --stopping
  fdpass notify --fd 4 --fdname state 4</run/app/state
  fdpass notify WATCHDOG=1`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			n.barrier = n.barrier && !n.noBlock
			only := c.Flags().Changed("barrier") && n.barrier
			return n.send(c.Context(), args, only)
		},
	}
	f := c.Flags()
	f.BoolVar(&n.ready, "ready", false, "the start or the reload is complete")
	f.BoolVar(&n.reloading, "reloading", false, "the service begins to reload")
	f.BoolVar(&n.stopping, "stopping", false, "the service begins to stop")
	f.StringVar(&n.status, "status", "", "one `line` for people")
	f.StringVar(&n.pid, "pid", "", "the main process: a `PID`, self, or parent, the one that started this")
	f.Lookup("pid").NoOptDefVal = "parent"
	f.IntSliceVar(&n.fds, "fd", nil, "descriptor `N` for the manager's store; may be given several times")
	f.StringVar(&n.fdname, "fdname", "stored", "the `name` of these descriptors")
	f.BoolVar(&n.barrier, "barrier", true, "wait until the manager has handled all of this, and what came before")
	f.BoolVar(&n.noBlock, "no-block", false, "do not wait")
	f.DurationVar(&n.timeout, "timeout", 5*time.Second, "how long to wait at most")
	return c
}

// send tells the manager. With only it may have nothing to say.
func (n *notification) send(ctx context.Context, variables []string, only bool) error {
	states, err := n.states(variables)
	if err != nil {
		return err
	}
	if len(states) == 0 && len(n.fds) == 0 && !only {
		return usagef("nothing to say: see fdpass notify --help")
	}
	files, err := storedFiles(n.fds)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	told := os.Getenv("NOTIFY_SOCKET") != ""
	switch {
	case len(files) > 0:
		told, err = systemd.Store(ctx, n.fdname, files, states...)
	case len(states) > 0:
		told, err = systemd.NotifyFor(ctx, speaker(), states...)
	}
	if err == nil && told && n.barrier {
		told, err = systemd.Barrier(ctx)
	}
	if err == nil && !told {
		err = errors.New("there is no service manager: NOTIFY_SOCKET is not set")
	}
	return err
}

func (n *notification) states(variables []string) ([]systemd.State, error) {
	var states []systemd.State
	if n.ready {
		states = append(states, systemd.Ready)
	}
	if n.reloading {
		states = append(states, systemd.Reloading())
	}
	if n.stopping {
		states = append(states, systemd.Stopping)
	}
	if n.status != "" {
		states = append(states, systemd.Status(n.status))
	}
	if n.pid != "" {
		pid, err := mainPID(n.pid)
		if err != nil {
			return nil, err
		}
		states = append(states, systemd.MainPID(pid))
	}
	for _, v := range variables {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.Contains(v, "\n") {
			return nil, usagef("%q is not VARIABLE=VALUE", v)
		}
		states = append(states, systemd.State(v))
	}
	return states, nil
}

// mainPID reads the value of --pid.
func mainPID(s string) (int, error) {
	switch s {
	case "parent":
		return os.Getppid(), nil
	case "self":
		return os.Getpid(), nil
	}
	pid, err := strconv.Atoi(s)
	if err != nil || pid <= 0 {
		return 0, usagef("--pid=%s: not a pid, self or parent", s)
	}
	return pid, nil
}

// speaker returns the process in whose name to speak: the one that started this, but if that is the manager.
func speaker() int {
	if pid := os.Getppid(); pid > 1 {
		return pid
	}
	return os.Getpid()
}

// storedFiles lends descriptors that this program was started with.
func storedFiles(fds []int) ([]syscall.Conn, error) {
	var files []syscall.Conn
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 { // close-on-exec: opened by the runtime meanwhile
			return nil, errors.WithMessagef(unix.EBADF, "--fd %d was not given to this program", fd)
		}
		files = append(files, sysfd.Lent(func() int { return fd }))
	}
	return files, nil
}
