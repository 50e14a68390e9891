package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func init() { commands = append(commands, newMan) }

// newMan is for packagers.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:     "man FOLDER",
		Hidden:  true,
		Short:   "Write the manual pages",
		Long:    "Man writes a manual page for fdpass and each of its commands into FOLDER, which it makes.",
		Example: "  fdpass man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := c.Root()
			for _, c := range append(root.Commands(), root) {
				c.Long = markdown(c.Long)
			}
			root.DisableAutoGenTag = true // the same input makes the same pages
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "fdpass " + root.Version, Manual: "fdkit"}, args[0])
		},
	}
}

// markdown makes text of a Long what cobra/doc takes it for.
func markdown(long string) string {
	var out strings.Builder
	code := false
	for _, line := range strings.Split(long, "\n") {
		if indented := strings.HasPrefix(line, "  "); indented != code && line != "" {
			code = indented
			out.WriteByte('\n')
		}
		if code && line != "" {
			line = "  " + line // four make a block of code
		} else {
			line = strings.NewReplacer("<", `\<`, "*", `\*`, "_", `\_`).Replace(line)
		}
		out.WriteString(line + "\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}
