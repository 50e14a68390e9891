package handoff

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fdkit/fdkit/credentials"
)

// Options say how a service finds its predecessor and its successor. The zero value of a field is its
// default.
type Options struct {
	// Name is the service's: one that offers itself under another name is refused. Default is the base
	// name of the program.
	Name string

	// Socket is the path at which a successor, started by anybody, finds this process and takes over.
	// Next to it lies Socket+".lock". Both are the service's; keep them in a folder that only its user
	// can write to. One that everybody can write to, such as /tmp, or that belongs to another user than
	// this process's and root, is refused with an error that matches fs.ErrPermission; whoever gives a
	// Policy may use a folder of others. Without a path only Upgrade starts successors.
	Socket string

	// Program and Args are what Upgrade starts. Default is the path of this program, resolved when
	// Start is called, and the arguments of this process. It is a path and not /proc/self/exe, which
	// after a deploy is still the old file.
	Program string
	Args    []string

	// UpgradeSignals are the signals on which the service upgrades itself, such as syscall.SIGHUP.
	UpgradeSignals []os.Signal

	// StopSignals are the signals that tell the program to stop. Default is SIGTERM and SIGINT.
	StopSignals []os.Signal

	// Final returns what the successor gets with the commit: state, and items that are known only then. It is
	// called when nothing is accepted or read any more, and must be quick: its context ends with
	// Deadlines.MaxPause. After an error this process goes on serving.
	Final func(context.Context) (Final, error)

	// Policy decides who may take over, and from whom. Default is the same user or root.
	Policy *credentials.Policy

	// AnyUnit lets a successor take over that is outside the unit, the control group, of this process. It is
	// about processes that a service manager watches (NOTIFY_SOCKET is in the environment), for one that does
	// not lose or end the successor then. See [ErrOutside].
	AnyUnit bool

	// CloseIdle has idle connections end with this process, instead of moving to the successor: for programs
	// that remember something about each of their connections.
	CloseIdle bool

	// Force kills a predecessor that hangs after it has handed everything over, and serves.
	Force bool

	Deadlines Deadlines

	// Logger gets one line a step. Default is none.
	Logger *slog.Logger

	// Events gets the same for programs: counters, metrics. It must return at once.
	Events func(Event)
}

func (o Options) withDefaults() (Options, error) {
	if o.Program == "" {
		// Not resolved further: a deploy often moves a symbolic link.
		program, err := programPath()
		if err != nil {
			return o, err
		}
		o.Program = program
	}
	if o.Name == "" {
		o.Name = filepath.Base(o.Program)
	}
	if o.Args == nil {
		o.Args = os.Args[1:]
	}
	if o.StopSignals == nil {
		o.StopSignals = defaultStopSignals
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
