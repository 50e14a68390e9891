//go:build unix

package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
)

func init() { commands = append(commands, newDelete) }

func newDelete() *cobra.Command {
	var (
		path    string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:     "delete [flags] NAME...",
		Short:   "Have the holder close descriptors",
		GroupID: "hold",
		Long: `Have the holder close the descriptors that it keeps under these names. A socket goes on if another
program has it too.`,
		Example: `  fdpass delete web`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHolder(cmd, path, timeout, func(c *holder.Client) error {
				for _, name := range args {
					if err := c.Delete(name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	socketFlag(cmd, &path)
	timeoutFlag(cmd, &timeout)
	return cmd
}
