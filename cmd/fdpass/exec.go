package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
)

func init() { commands = append(commands, newExec, newBecome) }

func newExec() *cobra.Command {
	var f socketFlags
	c := &cobra.Command{
		Use:     "exec -l ADDRESS… [--as WAY] -- COMMAND [ARGUMENT…]",
		GroupID: "serve",
		Short:   "Open sockets and become a program that inherits them",
		Long: "Opens the sockets and becomes COMMAND, in place: the pid stays, and nothing of fdpass remains.\n" +
			"The sockets are the only descriptors from 3 up that the program gets, in the order of -l. A path that was made for one\n" +
			"stays when the program ends; the next exec or serve replaces it.\n\n" + waysHelp() +
			"\nExits with 126 if COMMAND cannot be executed, 127 if there is none.",
		Example: `  fdpass exec -l 127.0.0.1:8080 -- node server.js            # server.listen({fd: 3})
  fdpass exec -l web=:80 -l admin=/run/admin.sock --mode 0600 -- ./server
  fdpass exec -l tcp://0.0.0.0:80 --as nginx -- nginx        # with "listen 80;"
  fdpass exec -l 127.0.0.1:9000 --as fd0 -- php-cgi`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return execute(c, &f, args) },
	}
	f.add(c)
	c.Flags().SetInterspersed(false)
	return c
}

func execute(c *cobra.Command, f *socketFlags, args []string) error {
	way, addresses, o, err := f.parse(c)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usagef("no command to become: say it behind --")
	}
	path, err := inherit.Look(args[0], f.dir)
	if err != nil {
		return cannotRun(err)
	}
	sockets, err := open(addresses, o)
	if err != nil {
		return err
	}
	p := inherit.Program{Way: way.Name, Sockets: inherit.Sockets(sockets), Generation: 1, NoPID: f.noPID, Dir: f.dir, Path: path, Args: args}
	err = p.Hand(os.Environ())
	for _, s := range sockets {
		_ = s.Remove()
	}
	return cannotRun(err)
}

// newBecome is the second half of exec, and the first of each child of serve.
func newBecome() *cobra.Command {
	return &cobra.Command{
		Use:                inherit.Stub,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := inherit.ParseCommand(args)
			if err != nil {
				return usagef("%w", err)
			}
			return cannotRun(p.Become())
		},
	}
}
