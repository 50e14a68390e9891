//go:build unix

package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
)

func init() { commands = append(commands, newStore) }

func newStore() *cobra.Command {
	var (
		path            string
		fd              int
		expire, timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:     "store [flags] NAME",
		Short:   "Give a descriptor to the holder",
		GroupID: "hold",
		Long: `Give a descriptor that fdpass has inherited, standard input unless told otherwise, to the holder. It is
kept under NAME, which must not be in use, until it is deleted, taken away, or expires.`,
		Example: `  fdpass exec -l tcp://127.0.0.1:8080 --as fd0 -- fdpass store web
  fdpass store --fd 3 --expire 1h log 3>>/var/log/app.log`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			expiry := holder.Never(now)
			if cmd.Flags().Changed("expire") {
				if expire <= 0 {
					return usagef("--expire %v is not a time to come", expire)
				}
				expiry = holder.TainOf(now.Add(expire))
			}
			if fd < 0 {
				return usagef("--fd %d is not a descriptor", fd)
			}
			return withHolder(cmd, path, timeout, func(c *holder.Client) error {
				return c.Store(args[0], expiry, holder.FD(fd))
			})
		},
	}
	socketFlag(cmd, &path)
	timeoutFlag(cmd, &timeout)
	cmd.Flags().IntVar(&fd, "fd", 0, "store descriptor `N`")
	cmd.Flags().DurationVar(&expire, "expire", 0, "let the holder close it after this `TIME`, such as 90s or 12h")
	return cmd
}
