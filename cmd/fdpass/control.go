package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/supervise"
)

func init() { commands = append(commands, newRestart, newStatus) }

// controlFlags say which service is meant.
type controlFlags struct {
	control string
	timeout time.Duration
}

func (f *controlFlags) add(c *cobra.Command, timeout time.Duration) {
	c.Flags().StringVar(&f.control, "control", "", "path of the service's control socket, if it was given one")
	c.Flags().DurationVar(&f.timeout, "timeout", timeout, "how long to wait for the answer, 0 for ever")
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return supervise.Services(), cobra.ShellCompDirectiveNoFileComp
	}
}

// ask asks the service that the arguments name.
func (f *controlFlags) ask(ctx context.Context, args []string, do string) (*supervise.Answer, error) {
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		patience := time.AfterFunc(time.Second, func() { fmt.Fprintf(os.Stderr, "fdpass: %s: waiting for the answer\n", do) })
		defer patience.Stop()
	}
	a, err := supervise.DialAndAsk(ctx, f.control, name, supervise.Request{Do: do})
	if ctx.Err() != nil {
		return nil, &exitError{exitTimeout, fmt.Errorf("%s: no answer within %v (--timeout); it goes on", do, f.timeout)}
	}
	return a, err
}

func newRestart() *cobra.Command {
	var f controlFlags
	var itself bool
	c := &cobra.Command{
		Use:     "restart [NAME]",
		GroupID: "serve",
		Short:   "Start the next generation of a service, and wait until it is ready",
		Long: `Tells fdpass serve to start a new generation of its program, and returns when that is ready and the old one was
told to stop. If the new one fails, restart says why and exits with 1, and the old one serves on. Without NAME it is
the only service that runs here for this user.

With --self it is fdpass that is replaced, by what is at its path now; the program and the sockets do not notice. The
new fdpass has a trial run first, and nothing changes if that fails.`,
		Example: `  fdpass restart
  fdpass restart web || echo "the old one serves on"
  fdpass restart --control /run/web/control.sock
  fdpass restart --self web`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			do := "restart"
			if itself {
				do = "replace"
			}
			_, err := f.ask(c.Context(), args, do)
			return err
		},
	}
	f.add(c, 0)
	c.Flags().BoolVar(&itself, "self", false, "replace fdpass itself, in place")
	return c
}

func newStatus() *cobra.Command {
	var f controlFlags
	var asJSON bool
	c := &cobra.Command{
		Use:     "status [NAME]",
		GroupID: "serve",
		Short:   "Show the generations of a service, and its sockets",
		Long: `Shows what fdpass serve holds and runs. The states of a generation are starting (not ready yet), live (it serves),
draining (it was told to stop and finishes what it has begun) and failed (the last one that was not ready, until another
one is). Without NAME it is the only service that runs here for this user.

--json has the same: name, pid, version, uptime (s), stopping, sockets (name, address, bound, fd, missing) and generations
(generation, pid, state, uptime (s), status, failure).`,
		Example: `  fdpass status
  fdpass status web --json | jq '.generations[] | select(.state == "live").pid'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := f.ask(c.Context(), args, "status")
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				return e.Encode(a.Status)
			}
			return a.Status.Write(os.Stdout)
		},
	}
	f.add(c, 10*time.Second)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
