// Fdpass shows that a server can be replaced without one client noticing. It starts a small HTTP
// server, lets clients ask it without a pause, has the server replace itself by a new process again
// and again, and counts the requests that failed: there must be none.
//
//	go run ./examples/fdpass
//	go run ./examples/fdpass --upgrades 20 --plot requests.svg
//
//	go run ./examples/fdpass --mode takeover --kill predecessor@paused
//
// The server is in server.go, and is meant to be copied. The rest starts it, asks it and reports.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// Exit statuses.
const (
	statusFailed      = 1   // a request or a hand-over failed, or there were too few requests
	statusUsage       = 2   // the arguments are wrong
	statusInterrupted = 130 // as a shell reports Control-C
)

func main() {
	if m := os.Getenv(modeVariable); m != "" {
		if err := serverProcess(mode(m)); err != nil {
			fmt.Fprintln(os.Stderr, "fdpass:", err)
			os.Exit(statusFailed)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Control-C ends us at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	upgrades int
	every    time.Duration
	clients  int
	mix      string
	rate     int
	addr     string
	plot     string
	mode     mode
	kill     kill
}

// parse returns flag.ErrHelp if only help was asked for. Everything else it has told to stderr.
func parse(args []string, stdout, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("fdpass", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.upgrades, "upgrades", 5, "replace the server `N` times")
	flags.IntVar(&o.upgrades, "n", 5, "short for --upgrades `N`")
	flags.DurationVar(&o.every, "every", 400*time.Millisecond, "serve for `DURATION` before each upgrade and after the last")
	flags.IntVar(&o.clients, "clients", 16, "ask with `N` clients")
	flags.StringVar(&o.mix, "load", "mix", "`WHICH` clients: new makes a connection for each request, keep keeps one and never rests,\nthink keeps one and rests a few ms each time; of a mix half think, and a quarter each is new and keep")
	flags.IntVar(&o.rate, "rate", 200, "fail if in any second there are fewer than `N` answers")
	flags.StringVar(&o.addr, "addr", "127.0.0.1:0", "listen on `HOST:PORT`; port 0 is a free one")
	flags.StringVar(&o.plot, "plot", "", "draw the requests of each generation over time into `FILE.svg`")
	flags.StringVar((*string)(&o.mode), "mode", string(child), "`HOW` a successor comes to be: child, the server starts it on SIGHUP;\ntakeover, somebody else does, and it finds the server at a path")
	flags.Var(&o.kill, "kill", "have a process kill itself in one upgrade, `WHO@STEP`:\n"+killHelp)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	for _, arg := range args {
		if arg == "-h" || arg == "-help" || arg == "--help" {
			flags.SetOutput(stdout) // asked for, so not an error
		}
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		err = errors.Errorf("unexpected argument %q, see --help", flags.Arg(0))
	case mixes[o.mix] == nil:
		err = errors.Errorf("--load %s: it is new, keep, think or mix", o.mix)
	case o.mode != child && o.mode != takeover:
		err = errors.Errorf("--mode %s: it is child or takeover", o.mode)
	case o.kill.step != "" && o.upgrades < 1:
		err = errors.New("--kill needs an upgrade")
	case o.upgrades < 0, o.clients < 1, o.every <= 0, o.rate < 0:
		err = errors.New("--upgrades and --rate cannot be negative, --clients and --every must be more than 0")
	}
	if err != nil {
		fmt.Fprintln(stderr, "fdpass:", err)
	}
	return o, err
}

const killHelp = `  successor@adopted        it has everything, and prepares itself
  successor@ready          just before it says that it can serve
  successor@serving        it accepts, and the predecessor takes back
  predecessor@offering     before it has passed anything: the successor begins afresh
  predecessor@paused       nobody accepts at this moment
  predecessor@handed-over  the successor serves, the last requests are still here
What the killed process was itself answering dies with it, and is counted apart from what
failed: on kept-alive connections by who gave the last answer; on those without one, or which
may have moved since, by the time, 250 ms from the kill on, and once for each client at most. At
predecessor@offering nobody else has the socket: what is refused until the successor has
made one is counted too, and the port is chosen before the server starts`

const usage = `fdpass replaces an HTTP server by a new process, again and again, under load, and
counts the requests that failed. There must be none; then the exit status is 0.

  go run ./examples/fdpass
  go run ./examples/fdpass --upgrades 20 --plot requests.svg
  go run ./examples/fdpass --mode takeover --kill predecessor@paused

`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return statusUsage
	}
	r := &trial{options: o}
	r.try(ctx, stderr)
	if r.load != nil {
		r.write(stdout)
		if o.plot != "" {
			r.problem(r.writePlot(o.plot), "plot")
		}
	}
	for _, p := range r.problems {
		fmt.Fprintln(stderr, "fdpass:", p)
	}
	switch {
	case len(r.problems) > 0:
		return statusFailed
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "fdpass: interrupted")
		return statusInterrupted
	}
	return 0
}
