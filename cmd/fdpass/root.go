package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
)

// The exit codes of fdpass itself. A command that runs a program ends with the program's status, or
// 128 and the signal's number, as a shell tells it.
const (
	exitFailed      = 1   // it did not work; stderr says why in one line
	exitUsage       = 2   // the command line is wrong
	exitTimeout     = 124 // --timeout is over, as in timeout(1)
	exitCannotRun   = 126 // the program cannot be executed
	exitNoSuchThing = 127 // there is no such program
)

// commands make the commands, in the order of --help.
var commands = []func() *cobra.Command{}

// groups are the headings of --help.
var groups = []*cobra.Group{
	{ID: "serve", Title: "Run programs behind sockets that stay:"},
	{ID: "hold", Title: "Keep descriptors for others (s6-fdholder):"},
	{ID: "pass", Title: "Pass descriptors:"},
	{ID: "ready", Title: "Readiness (sd_notify):"},
	{ID: "look", Title: "Look at what is there:"},
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "fdpass",
		Short: "Pass file descriptors between processes",
		Long: `Fdpass passes file descriptors between processes: listening sockets, connections, terminals, files,
anything open. It needs no change to the programs that it works for.

It ends with 0 when all went well, 1 when not, 2 for a wrong command line, 124 when --timeout was
over, 126 or 127 for a program that cannot be run, and with the status of a program that it ran.`,
		Example: `  fdpass recv --listen x.sock -- ./server &     the server gets what comes, from descriptor 3
  fdpass send --connect x.sock tcp://0.0.0.0:80 as root, to a server that is not
  fdpass send --help                            more about send`,
		SilenceUsage:  true, // an error is one line that says what to do
		SilenceErrors: true,
		Version:       version(),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: see fdpass --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.AddGroup(groups...)
	for _, newCommand := range commands {
		c := newCommand()
		if args := c.Args; args != nil {
			c.Args = func(c *cobra.Command, given []string) error {
				return badCommandLine(c, args(c, given))
			}
		}
		root.AddCommand(c)
	}
	root.SetFlagErrorFunc(badCommandLine)
	return root
}

// badCommandLine makes a usage error of one that cobra found.
func badCommandLine(c *cobra.Command, err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	return usagef("%v: see %s --help", err, c.CommandPath())
}

// version is the version of the module that was built, or its commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

// run is the program.
func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	return exitCode(os.Stderr, root.ExecuteContext(context.Background()))
}

// An exitError ends the program with a code. Without an error it has been told already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usagef is the error of a command line that is wrong.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode tells err in one line and returns the code to end with.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	code, tell := exitFailed, true
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		code, tell = exit.code, exit.err != nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		code = exitTimeout
	case errors.Is(err, exec.ErrNotFound):
		code = exitNoSuchThing
	}
	if tell {
		fmt.Fprintf(stderr, "fdpass: %v\n", err)
	}
	return code
}
