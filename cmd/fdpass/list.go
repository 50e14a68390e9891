//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
)

func init() { commands = append(commands, newList) }

func newList() *cobra.Command {
	var (
		path    string
		asJSON  bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:     "list [flags]",
		Short:   "List what the holder keeps",
		GroupID: "hold",
		Long: `List the names of the descriptors that the holder keeps, sorted, one a line. A name that would not be one
word on a terminal is quoted.`,
		Example: `  fdpass list
  fdpass list --json | jq -r .[].name`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []string
			err := withHolder(cmd, path, timeout, func(c *holder.Client) (err error) {
				names, err = c.List()
				return err
			})
			if err != nil {
				return err
			}
			slices.Sort(names)
			out := bufio.NewWriter(cmd.OutOrStdout())
			if asJSON {
				type held struct {
					Name string `json:"name"`
				}
				all := make([]held, len(names))
				for i, name := range names {
					all[i].Name = name
				}
				encoder := json.NewEncoder(out)
				encoder.SetIndent("", "  ")
				if err := encoder.Encode(all); err != nil {
					return err
				}
				return out.Flush()
			}
			for _, name := range names {
				_, _ = out.WriteString(printable(name) + "\n")
			}
			return out.Flush()
		},
	}
	socketFlag(cmd, &path)
	timeoutFlag(cmd, &timeout)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print an array of objects")
	return cmd
}
