package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
)

// socketFlags are the flags of commands that open sockets for a program.
type socketFlags struct {
	listen   []string
	as       string
	noPID    bool
	nonblock bool
	backlog  int
	mode     string
	dir      string
}

func (f *socketFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVarP(&f.listen, "listen", "l", nil, "open a socket here, again for more: "+address.Usage)
	flags.StringVar(&f.as, "as", inherit.Ways[0].Name, "how the program inherits them: "+strings.Join(inherit.Names(), ", "))
	flags.BoolVar(&f.noPID, "no-pid", false, "leave LISTEN_PID out, for a command that forks before the program reads it")
	flags.BoolVar(&f.nonblock, "nonblock", false, "open them nonblocking, which most programs do not expect (default with --as nginx)")
	flags.IntVar(&f.backlog, "backlog", 0, "connections that may wait; 0 is as many as the system allows")
	flags.StringVar(&f.mode, "mode", "", "mode of a socket's path, in octal (default 0666 less the umask)")
	flags.StringVar(&f.dir, "chdir", "", "start the program in this folder, which is looked up each time")
	_ = c.RegisterFlagCompletionFunc("as", func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
		for _, w := range inherit.Ways {
			names = append(names, w.Name+"\t"+w.About)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// waysHelp is the part of a long help that explains --as.
func waysHelp() string {
	var b strings.Builder
	b.WriteString("The program inherits the sockets in the way of --as:\n\n")
	for _, w := range inherit.Ways {
		fmt.Fprintf(&b, "  %-9s %s\n", w.Name, w.About)
	}
	return b.String()
}

// parse checks all that can be checked before anything is opened.
func (f *socketFlags) parse(c *cobra.Command) (way inherit.Way, addresses []address.Address, o address.Options, err error) {
	if way, err = inherit.Find(f.as); err != nil {
		return way, nil, o, usagef("%w", err)
	}
	for _, s := range f.listen {
		a, err := address.Parse(s)
		if err != nil {
			return way, nil, o, usagef("%w", err)
		}
		addresses = append(addresses, a)
	}
	if len(addresses) == 0 {
		return way, nil, o, usagef("no socket: say where with -l, as in -l tcp://127.0.0.1:8080")
	}
	if err := way.Check(len(addresses)); err != nil {
		return way, nil, o, usagef("%w", err)
	}
	o = address.Options{Backlog: f.backlog, Nonblock: way.Nonblock}
	if c.Flags().Changed("nonblock") {
		o.Nonblock = f.nonblock
	}
	if f.mode != "" {
		mode, err := strconv.ParseUint(f.mode, 8, 9)
		if err != nil || mode == 0 {
			return way, nil, o, usagef("--mode %s is no mode such as 0660", f.mode)
		}
		o.Mode = os.FileMode(mode)
	}
	return way, addresses, o, nil
}

// open opens all of them, or none.
func open(addresses []address.Address, o address.Options) (sockets []*address.Socket, err error) {
	for _, a := range addresses {
		s, err := a.Open(o)
		if err != nil {
			for _, s := range sockets {
				_ = s.Remove()
				s.Close()
			}
			return nil, err
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// cannotRun gives the error of a program that cannot be executed its exit code.
func cannotRun(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return &exitError{exitNoSuchThing, err}
	}
	return &exitError{exitCannotRun, err}
}
