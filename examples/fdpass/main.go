// Fdpass shows that a server can be replaced without one client noticing. It starts a small HTTP
// server, lets clients ask it without a pause, has the server replace itself by a new process again
// and again, and counts the requests that failed: there must be none.
//
//	go run ./examples/fdpass
//	go run ./examples/fdpass --upgrades 20 --plot requests.svg
//
// The server is in server.go, handover.go, drain.go and gate.go, and is meant to be copied. The rest
// starts it, asks it and reports.
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
	if generation := os.Getenv(generationVariable); generation != "" {
		if err := serverProcess(generation); err != nil {
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
	rate     int
	addr     string
	plot     string
}

// parse returns flag.ErrHelp if only help was asked for. Everything else it has told to stderr.
func parse(args []string, stdout, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("fdpass", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.upgrades, "upgrades", 5, "replace the server `N` times")
	flags.IntVar(&o.upgrades, "n", 5, "short for --upgrades `N`")
	flags.DurationVar(&o.every, "every", 400*time.Millisecond, "serve for `DURATION` before each upgrade and after the last")
	flags.IntVar(&o.clients, "clients", 16, "ask with `N` clients: each fourth makes a new connection for each request,\neach fourth keeps one and never rests, the others keep one and rest a few ms each time")
	flags.IntVar(&o.rate, "rate", 200, "fail if in any second there are fewer than `N` answers")
	flags.StringVar(&o.addr, "addr", "127.0.0.1:0", "listen on `HOST:PORT`; port 0 is a free one")
	flags.StringVar(&o.plot, "plot", "", "draw the requests of each generation over time into `FILE.svg`")
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
	case o.upgrades < 0, o.clients < 1, o.every <= 0, o.rate < 0:
		err = errors.New("--upgrades and --rate cannot be negative, --clients and --every must be more than 0")
	}
	if err != nil {
		fmt.Fprintln(stderr, "fdpass:", err)
	}
	return o, err
}

const usage = `fdpass replaces an HTTP server by a new process, again and again, under load, and
counts the requests that failed. There must be none; then the exit status is 0.

  go run ./examples/fdpass
  go run ./examples/fdpass --upgrades 20 --plot requests.svg

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
