// Package signals takes the signals of a supervisor, as early as a Go program can. When fdpass replaces
// itself, its pid goes on, and whoever sends it a signal does not know that it has no handler for a moment.
// So this package imports next to nothing, which makes its init one of the first.
package signals

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Inbox is where they arrive, once Take was called.
var Inbox = make(chan os.Signal, 64)

// ResumeFlag is the flag that a replacement is started with.
const ResumeFlag = "state"

func init() {
	for _, arg := range os.Args[min(1, len(os.Args)):] {
		if arg == "--" {
			return
		}
		if strings.HasPrefix(arg, "--"+ResumeFlag+"=") {
			Take()
			return
		}
	}
}

// Take begins to take signals.
func Take() {
	// A closed standard error must not end us: SIGPIPE. It comes with each write then, and has no room where others
	// would be dropped for it.
	signal.Notify(nowhere, syscall.SIGPIPE)
	signal.Notify(Inbox, syscall.SIGCHLD, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2)
}

var nowhere = make(chan os.Signal, 1)

// Ignore ignores SIGHUP until the next program takes it: it is lost in that moment, and would end the program
// otherwise. Go's runtime unblocks it when it starts, and lets an ignored one be.
func Ignore() { signal.Ignore(syscall.SIGHUP) }
