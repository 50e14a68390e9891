package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	only   *regexp.Regexp
	all    bool // only leaves nothing out
	out    string
	page   string
	rounds int
	slice  time.Duration
}

func main() {
	if doJob() {
		return
	}
	var o options
	only := flag.String("only", "", "run only what matches this `pattern`, such as message/SOCK_STREAM or exchange")
	flag.StringVar(&o.out, "out", "", "write results.json, results.md and ratios.svg into this `folder`")
	flag.StringVar(&o.page, "page", "", "put the tables of a run of everything into this Markdown `file`, between its markers, and the picture beside it")
	flag.IntVar(&o.rounds, "rounds", 40, "`number` of turns of each contender")
	flag.DurationVar(&o.slice, "slice", 4*time.Millisecond, "`length` of a turn")
	flag.Parse()
	o.all = *only == ""
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		killGroups()
		cleanUp()
		os.Exit(130)
	}()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = o.run()
	}
	cleanUp()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	r := newReport(o)
	for i := range experiments {
		e := &experiments[i]
		for _, c := range e.cases() {
			if !o.only.MatchString(c.String()) {
				continue
			}
			fmt.Fprintf(os.Stderr, "%s\n", c)
			results, err := e.run(c, o.rounds, o.slice)
			if err != nil {
				r.leaveOut(c.String() + ": " + err.Error())
				continue
			}
			if err := addCalls(results); err != nil {
				r.leaveOut("the count of system calls: " + err.Error())
			}
			r.Results = append(r.Results, results...)
		}
	}
	for _, what := range []string{connections, listeners} {
		if !o.only.MatchString("many/" + what) {
			continue
		}
		fmt.Fprintf(os.Stderr, "many/%s\n", what)
		all, err := transfers(what, transferCounts, min(o.rounds, transferRounds))
		if err != nil {
			r.leaveOut("many/" + what + ": " + err.Error())
			continue
		}
		r.Transfers = append(r.Transfers, all...)
	}
	r.Restarts = restarts(o.only.MatchString, 2, upgradesOfRun, func(name string) { fmt.Fprintln(os.Stderr, name) })
	for _, x := range r.Restarts {
		if x.Skipped != "" {
			r.leaveOut(x.Technique + ": " + x.Skipped)
		}
	}
	return r.write()
}
