//go:build unix

package main

import (
	"encoding/json"
	"io"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
)

func init() { commands = append(commands, newInspect) }

func newInspect() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "inspect [N…]",
		GroupID: "look",
		Short:   "Say what descriptors are",
		Long: `Inspect says what the descriptors are that fdpass inherits from whoever starts it: all of
them, or those with the numbers N.

MODE is the access mode, and what everybody shares who has the same open file: append, and
nonblock, which programs that do not expect it break on. A descriptor that is close-on-exec does
not get here. The cookie is the kernel's name for a socket, the same in every process that has it.`,
		Example: `  fdpass inspect                         what this shell gives to its programs
  fdpass inspect 0 3 3</etc/hosts        these two
  systemd-socket-activate -l 8080 fdpass inspect
  fdpass recv --listen x.sock -- fdpass inspect`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			numbers, err := numbersOf(args)
			if err != nil {
				return err
			}
			all := make([]descriptor, 0, len(numbers))
			for _, n := range numbers {
				d, err := descriptorOf(n, int(n))
				if err != nil {
					return errors.WithMessagef(err, "inspect %d", n)
				}
				all = append(all, d)
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), all)
			}
			return writeTable(c.OutOrStdout(), "FD", all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON list")
	return c
}

func numbersOf(args []string) ([]number, error) {
	if len(args) == 0 {
		return inheritedNumbers()
	}
	numbers := make([]number, 0, len(args))
	for _, arg := range args {
		n, err := parseNumber(arg)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// writeJSON writes v for a script, and so that a person can read it.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
