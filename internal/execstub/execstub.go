// Package execstub runs in the moment between fork(2) and execve(2) of a child, for what only the child can
// know: its pid.
//
// Package os/exec has no hook there, and must have none: after a fork only one thread of a Go program is
// left, and no Go code can run in it. So the child executes this very program once more, /proc/self/exe,
// and an init function here sees by the name under which it was executed that it is not to be the program
// but to put LISTEN_PID into the environment and to execute the next one in its place. Every program that
// imports package systemd can do that; its main function is not reached and need not know.
//
// The package imports little, so that it is initialized early: what other packages do in their init
// functions before it is done once more for each child.
package execstub

import (
	"os"
	"strconv"
)

// arg0 is the name under which a program becomes the stub. Who can choose it can execute any
// program himself, unless this one has privileges that he has not: see secure.
const arg0 = "fdkit: put LISTEN_PID into the environment and execute"

// Args returns the arguments with which this program, at Path, becomes path with args, args[0] being the
// name of that. It writes to the descriptor with the number report, which is close-on-exec from then on,
// the errno if that fails.
func Args(report int, path string, args []string) []string {
	return append([]string{arg0, strconv.Itoa(report), path}, args...)
}

func init() {
	if len(os.Args) >= 4 && os.Args[0] == arg0 {
		run(os.Args[1], os.Args[2], os.Args[3:])
	}
}
