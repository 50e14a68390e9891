//go:build unix

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
)

func init() { commands = append(commands, newTransfer) }

func newTransfer() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "transfer [flags] FROM TO [NAME...]",
		Short:   "Move descriptors from one holder to another",
		GroupID: "hold",
		Long: `Move descriptors, those of these names or all, from the holder whose socket is FROM to the one whose socket
is TO; either may be s6's. Nothing is taken from the first before the second has everything.`,
		Example: `  fdpass transfer /service/fdholder/s /run/fdpass-hold.sock
  fdpass transfer /run/old.sock /run/new.sock web api`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := withTimeout(cmd.Context(), timeout)
			defer cancel()
			_, err := holder.Transfer(ctx, args[0], args[1], args[2:], func(err error) {
				fmt.Fprintf(cmd.ErrOrStderr(), "fdpass: warning: %v\n", err)
			})
			return err
		},
	}
	timeoutFlag(cmd, &timeout)
	return cmd
}
