package main

import (
	"time"

	"github.com/spf13/cobra"
)

func init() { commands = append(commands, newWaitReady) }

// waiting is the command line of wait-ready.
type waiting struct {
	timeout time.Duration
	pidFile string
	report  int // of the process that stays: the descriptor on which it tells the one that waits
}

func newWaitReady() *cobra.Command {
	var w waiting
	c := &cobra.Command{
		Use:     "wait-ready [flags] -- COMMAND [ARGUMENT...]",
		GroupID: "ready",
		Short:   "Start a program and wait until it says that it is ready",
		Long: `Start COMMAND and wait until it says READY=1 at $NOTIFY_SOCKET, as a program for a service
manager does (sd_notify(3)). Then end with 0 and leave it running. If it ends before it was ready, end with
its status, or with 1 if that is 0; if it is not ready in time, stop it and end with 124.

A small fdpass process stays beside it, as its parent and manager: it hears what else the program has to say,
lets it through its barriers, and ends with it. It follows MAINPID=. The program, its children, root and
whoever has the program's user or this one's are believed.`,
		Example: `  fdpass wait-ready --timeout 10s --pid-file /run/app.pid -- app --port 8080
  fdpass wait-ready -- sh -c 'start-database; systemd-notify --ready; exec watch-database'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("which program? See fdpass wait-ready --help")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if w.report > 0 {
				return w.stay(args)
			}
			return w.wait(args)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the program is its own
	f.DurationVar(&w.timeout, "timeout", 0, "how long to wait at most, such as 10s; 0 is for ever")
	f.StringVar(&w.pidFile, "pid-file", "", "write the pid of the main process to this `FILE` when it is ready")
	f.IntVar(&w.report, "report", 0, "")
	_ = f.MarkHidden("report")
	return c
}
