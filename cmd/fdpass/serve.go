package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/supervise"
)

func init() { commands = append(commands, newServe, newGuard) }

// serveFlags are those of serve beside the ones for sockets.
type serveFlags struct {
	socketFlags
	name, control, ready, stop string
	timeout, drain             time.Duration
	state, check               int
}

func newServe() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:     "serve -l ADDRESS… [--as WAY] [--ready notify|TIME] -- COMMAND [ARGUMENT…]",
		GroupID: "serve",
		Short:   "Hold sockets and restart a program behind them without losing a connection",
		Long: `Opens the sockets and runs COMMAND, which inherits them. At SIGHUP, or fdpass restart, a new generation of it
starts beside the old one. When the new one is ready the old one is told to stop, finishes what it has begun, and
ends. Both have the same sockets, so there is no moment in which a connection is refused. If the new one dies, or is
not ready in time, it is killed, and the old one serves on.

A generation is ready when it has run for the time of --ready, or, with --ready notify, when it says READY=1 as
sd_notify(3). One that ends by itself is started again, unless it does so again and again; clients wait meanwhile.

` + waysHelp() + `
Signals: HUP restarts; TERM, INT and QUIT end the service, TERM by the stop signal of the way; USR1 is passed on;
USR2 replaces fdpass itself by what is at its path now, in place, after a trial run of it.

Under systemd it may be of Type=notify, or notify-reload: the unit is ready when the first generation is, and
reloads while another one starts.

Exits with the status of COMMAND, 128 and the number if it was a signal.`,
		Example: `  fdpass serve -l 0.0.0.0:8080 -- node server.js             # server.listen({fd: 3})
  fdpass serve -l 0.0.0.0:8000 --ready notify -- gunicorn app:app
  fdpass serve -l 0.0.0.0:80 --as nginx -- nginx -g 'daemon off;'
  fdpass serve --name web -l web=:80 -l admin=/run/admin.sock --mode 0600 -- ./server
  fdpass restart web && fdpass status web`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return serve(c, &f, args) },
	}
	f.add(c)
	flags := c.Flags()
	flags.StringVar(&f.name, "name", "", "name of the service (default that of COMMAND)")
	flags.StringVar(&f.control, "control", "", "path of the control socket, none for none (default by name, in /run/fdpass for root, $XDG_RUNTIME_DIR/fdpass or /run/user/UID/fdpass for others, else abstract)")
	flags.StringVar(&f.ready, "ready", "1s", "a generation is ready when it has run this long, or notify: when it says so")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "with --ready notify: how long it may take until then")
	flags.DurationVar(&f.drain, "drain", 10*time.Minute, "how long an old generation may take to end before it is killed, 0 for ever")
	flags.StringVar(&f.stop, "stop-signal", "", "tells a generation to stop (default by --as: QUIT for nginx, unicorn and fpm, else TERM)")
	flags.IntVar(&f.state, supervise.StateFlag, -1, "")
	flags.IntVar(&f.check, supervise.CheckFlag, -1, "")
	_ = flags.MarkHidden(supervise.StateFlag)
	_ = flags.MarkHidden(supervise.CheckFlag)
	flags.SetInterspersed(false)
	return c
}

// newGuard watches over the moment in which serve is replaced.
func newGuard() *cobra.Command {
	return &cobra.Command{
		Use:                supervise.GuardCommand,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return supervise.Guard(args, os.Stdin) },
	}
}

func serve(c *cobra.Command, f *serveFlags, args []string) error {
	config, err := f.config(c, args)
	if err != nil {
		return err
	}
	if f.check >= 0 {
		return supervise.Check(config, f.check, os.Stdout)
	}
	var code int
	if f.state >= 0 {
		code, err = supervise.Resume(config, f.state)
	} else {
		code, err = supervise.Run(config)
	}
	var missing *exec.Error
	if errors.As(err, &missing) {
		return cannotRun(err)
	}
	if err == nil && code != 0 {
		return &exitError{code: code}
	}
	return err
}

func (f *serveFlags) config(c *cobra.Command, args []string) (config supervise.Config, err error) {
	way, addresses, options, err := f.parse(c)
	if err != nil {
		return config, err
	}
	if len(args) == 0 {
		return config, usagef("no command to run: say it behind --")
	}
	config = supervise.Config{Name: f.name, Sockets: addresses, Options: options, Way: way, Command: args, Dir: f.dir, NoPID: f.noPID,
		Timeout: f.timeout, Drain: f.drain, Stop: way.Stop, Version: version(), Log: os.Stderr}
	if config.Name == "" {
		config.Name = defaultName(args[0])
	}
	if err := supervise.CheckName(config.Name); err != nil {
		return config, usagef("%w", err)
	}
	switch f.control {
	case "":
		config.Control = supervise.Addresses(config.Name)
	case "none":
	default:
		if config.Control = []string{f.control}; !strings.HasPrefix(f.control, "@") {
			config.Control[0], err = filepath.Abs(f.control)
		}
	}
	if err != nil {
		return config, err
	}
	if config.Notify = f.ready == "notify"; !config.Notify {
		if config.Grace, err = seconds(f.ready); err != nil {
			return config, usagef("--ready %s is neither notify nor a time such as 1s", f.ready)
		}
	}
	if f.timeout <= 0 || f.drain < 0 {
		return config, usagef("--timeout must be more than 0, --drain not less")
	}
	if f.stop != "" {
		if config.Stop, err = signalNumber(f.stop); err != nil {
			return config, usagef("%w", err)
		}
	}
	config.Self, config.SelfArgs, config.SelfFlag, err = self(c.Name())
	return config, err
}

// defaultName makes a name of a command's.
func defaultName(command string) string {
	return strings.Map(func(r rune) rune {
		if supervise.CheckName(string(r)) != nil {
			return '_'
		}
		return r
	}, filepath.Base(command))
}

// seconds reads a time; a number alone is seconds.
func seconds(s string) (time.Duration, error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		s = strconv.FormatFloat(n, 'f', -1, 64) + "s"
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		return 0, errors.New("a time is not negative")
	}
	return d, err
}

// self returns how to start this program again: as it was started, which after a deployment is the new one;
// /proc/self/exe would be the old. What a replacement was started with is taken out.
func self(command string) (path string, args []string, flag int, err error) {
	if path, err = inherit.Look(os.Args[0], ""); err != nil { // it was started under a name that is not its own
		if path, err = os.Executable(); err != nil {
			return "", nil, 0, err
		}
	}
	args = slices.Clone(os.Args[1:])
	flag = slices.Index(args, command) + 1
	for flag < len(args) && (strings.HasPrefix(args[flag], "--"+supervise.StateFlag+"=") || strings.HasPrefix(args[flag], "--"+supervise.CheckFlag+"=")) {
		args = slices.Delete(args, flag, flag+1)
	}
	return path, args, flag, nil
}

var signals = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "KILL": syscall.SIGKILL,
	"TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "WINCH": syscall.SIGWINCH}

// signalNumber reads TERM, SIGTERM or 15.
func signalNumber(s string) (syscall.Signal, error) {
	if sig, ok := signals[strings.TrimPrefix(strings.ToUpper(s), "SIG")]; ok {
		return sig, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	return 0, errors.Errorf("%q is no signal such as TERM, QUIT, USR1", s)
}
