//go:build !linux

package execstub

import "os"

// Path is empty: the way to this program is not known.
const Path = ""

// run is never wanted.
func run(string, string, []string) { os.Exit(126) }
