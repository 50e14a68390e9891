// Package supervise holds sockets and keeps a program running behind them, generation after generation: a
// new one starts beside the old one, and the old one is told to stop when the new one is ready. One that
// fails is rolled back. The supervisor can replace itself by another version of fdpass, in place: a new
// process could not wait for its children.
//
// The sockets are numbers, and nothing here reads, accepts, or changes their mode. They are closed when
// Run returns, never before.
//
// Everything that happens (a signal, a timer, a notification, a command) is handled under one lock, and
// what has happened is taken from the kernel under it too. So while somebody holds the lock, nothing is
// on its way in memory, and the process can be replaced without losing a notification.
package supervise

import (
	"io"
	"syscall"
	"time"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/signals"
)

// Config says what Run is to keep running.
type Config struct {
	Name    string            // of the service
	Sockets []address.Address // what to open
	Options address.Options   // how
	Way     inherit.Way       // how the program inherits them
	Command []string          // the program; it is looked up at each start
	Dir     string            // where it starts, looked up each time; "" for here
	NoPID   bool              // without LISTEN_PID

	Notify  bool           // it is ready when it says READY=1,
	Grace   time.Duration  // else when it has run this long
	Timeout time.Duration  // how long it may take until then
	Drain   time.Duration  // how long it may take to end after Stop; 0 is for ever
	Stop    syscall.Signal // asks it to end

	Control []string // addresses of which the first that can be used is the control socket; none for none
	Version string   // of this program

	// Self is the program to replace this one by: its path, the arguments that lead to the same Config, and
	// where in them a flag can be put in.
	Self     string
	SelfArgs []string
	SelfFlag int

	Log io.Writer // one line for each thing that went wrong
}

// The hidden flags of the command that calls Run, which a replacement is started with.
const (
	StateFlag = signals.ResumeFlag // the number of a memfd: Resume
	CheckFlag = "check-state"      // the number of a memfd, to be checked: Check
)
