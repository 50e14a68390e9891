//go:build unix

package main

import (
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
	"github.com/fdkit/fdkit/scm"
)

func init() { commands = append(commands, newRetrieve) }

func newRetrieve() *cobra.Command {
	var (
		path    string
		as      string
		noPID   bool
		remove  bool
		timeout time.Duration
	)
	c := &cobra.Command{
		Use:     "retrieve [flags] NAME -- COMMAND [ARGUMENT…]",
		Short:   "Become a program with a descriptor of the holder's",
		GroupID: "hold",
		Long: "Becomes COMMAND, in place, with the descriptor that the holder keeps under NAME: as standard input,\n" +
			"or in another way of --as.\n\n" + waysHelp() +
			"\nExits with 126 if COMMAND cannot be executed, 127 if there is none.",
		Example: `  fdpass retrieve web -- ./server-on-standard-input
  fdpass retrieve --as systemd web -- ./server-with-LISTEN_FDS
  fdpass retrieve --delete log -- ./writer`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			name, args := args[0], args[1:]
			if args[0] == "--" {
				args = args[1:]
			}
			if len(args) == 0 {
				return usagef("no command to become: say it behind --")
			}
			if _, err := inherit.Find(as); err != nil {
				return usagef("%w", err)
			}
			program, err := inherit.Look(args[0], "")
			if err != nil {
				return cannotRun(err)
			}
			p := inherit.Program{Way: as, NoPID: noPID, Generation: 1, Path: program, Args: args}
			err = withHolder(c, path, timeout, func(h *holder.Client) error {
				fd, err := h.Retrieve(name, remove)
				p.Sockets = []inherit.Socket{describe(name, fd)}
				return err
			})
			if err != nil {
				return err
			}
			return cannotRun(p.Hand(os.Environ()))
		},
	}
	c.Flags().SetInterspersed(false)
	socketFlag(c, &path)
	timeoutFlag(c, &timeout)
	c.Flags().StringVar(&as, "as", "fd0", "how the program inherits it: "+strings.Join(inherit.Names(), ", "))
	c.Flags().BoolVar(&noPID, "no-pid", false, "leave LISTEN_PID out, for a command that forks before the program reads it")
	c.Flags().BoolVarP(&remove, "delete", "D", false, "take it away from the holder")
	_ = c.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(inherit.Names(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// describe says of a held descriptor what a program may be told about it.
func describe(name string, fd holder.FD) inherit.Socket {
	s := inherit.Socket{FD: int(fd)}
	// LISTEN_FDNAMES has colons between names.
	if !strings.ContainsFunc(name, func(r rune) bool { return r == ':' || !unicode.IsPrint(r) }) {
		s.Name = name
	}
	if info, err := scm.Inspect(fd); err == nil && info.Socket != nil && info.Socket.Local != nil {
		s.Bound = info.Socket.Local.String()
		s.Written, s.Local = s.Bound, strings.HasPrefix(s.Bound, "/")
	}
	return s
}
