package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/handoff"
	"github.com/fdkit/fdkit/internal/load"
)

const (
	startTimeout    = time.Minute // for the first generation to serve
	handOverTimeout = time.Minute // for a successor to serve, or to fail
)

// A trial is one run: a service, its load, and what was seen of them.
type trial struct {
	options
	service *service
	load    *load.Load

	generations []*generation // number 1 first
	changes     []change
	problems    []string // why the exit status is not 0

	current atomic.Int64 // the place in generations of who serves, from 1 on, for the progress line

	killed *event // the process that killed itself
	afresh *event // who served first after that

	// What was heard of the upgrade that is under way, if one is.
	upgrading bool
	paused    *event // the predecessor
	serving   *event // the successor
	kept      *event // the predecessor serves on, or again, or the successor has ended
}

// A generation is what was seen of one.
type generation struct {
	number   uint64 // as it counts itself; 1 is one that began afresh
	pid      int
	handOver time.Duration // from the trigger until it served; 0 for the first
	pause    time.Duration // the part of it in which nobody accepted
	ended    bool
	killed   bool
	drain    time.Duration // how long its last connections took
	cut      int           // connections that were cut then
	requests int64         // by its own count
}

// A change is the time of a hand-over, after the begin of the load.
type change struct {
	trigger, serving time.Duration
	to               *generation // nil if it failed
}

// mixes are which kinds of clients there are, in turn, by the name of --load.
var mixes = map[string][]load.Kind{
	"mix":   {load.New, load.KeepAlive, load.WithPauses, load.WithPauses},
	"new":   {load.New},
	"keep":  {load.KeepAlive},
	"think": {load.WithPauses},
}

// startLoad starts n clients of a mix.
func startLoad(addr, mix string, n int) *load.Load {
	o := load.Options{Addr: addr, Format: answerFormat}
	for i := range n {
		o.Kinds = append(o.Kinds, mixes[mix][i%len(mixes[mix])])
	}
	return load.Start(o)
}

// try makes the trial. Afterwards there is something to report if load is set.
func (r *trial) try(ctx context.Context, stderr io.Writer) {
	if r.kill.step == "offering" {
		if err := r.fixPort(); err != nil {
			r.problem(err, "choose a port")
			return
		}
	}
	s, err := startService(r.mode, r.addr)
	if err != nil {
		r.problem(err, "start the server")
		return
	}
	defer s.close(r.hear)
	r.service = s
	if err := r.await(ctx, startTimeout, func() bool { return r.serving != nil }); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errEnded) { // how it ended is told anyway
			r.problem(err, "start the server")
		}
		return
	}
	addr := r.serving.Addr
	if err := r.commit(r.generations[0]); err != nil {
		r.problem(err, "start the server")
		return
	}
	r.load = startLoad(addr, r.mix, r.clients)
	p := startProgress(stderr, r.progress)
	if err := r.upgradeAll(ctx); ctx.Err() == nil {
		r.problem(err, "upgrade")
	}
	r.load.Stop()
	r.problem(r.end(), "end the server")
	p.stop()
	r.judge()
}

// fixPort chooses the port, if we are to. Who begins afresh must find it again.
func (r *trial) fixPort() error {
	ln, err := net.Listen("tcp", r.addr)
	if err != nil {
		return err
	}
	r.addr = ln.Addr().String()
	return ln.Close()
}

func (r *trial) upgradeAll(ctx context.Context) error {
	if err := r.rest(ctx); err != nil {
		return err
	}
	for i := range r.upgrades {
		if err := r.upgrade(ctx, r.kill.step != "" && i == r.upgrades/2); err != nil {
			return err
		}
		if err := r.rest(ctx); err != nil {
			return err
		}
	}
	if r.kill.step != "" && r.killed == nil {
		return errors.Errorf("nobody was killed at %v", r.kill)
	}
	return nil
}

// rest lets the current generation serve for a while.
func (r *trial) rest(ctx context.Context) error {
	err := r.await(ctx, r.every, func() bool { return false })
	if errors.Is(err, context.DeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

// upgrade has the current generation replaced. That it is not is a problem, unless somebody was to be killed,
// but no error: the trial goes on.
func (r *trial) upgrade(ctx context.Context, kill bool) error {
	r.upgrading, r.paused, r.serving, r.kept = true, nil, nil, nil
	defer func() { r.upgrading = false }()
	if kill {
		if err := r.kill.order(r.service.folder, r.service.current.PID()); err != nil {
			return err
		}
	}
	trigger := time.Now()
	if err := r.service.upgrade(); err != nil {
		return err
	}
	// An interruption waits for the end of it: else a process would serve that we do not know of.
	if err := r.await(context.WithoutCancel(ctx), handOverTimeout, func() bool {
		if r.kept != nil || r.serving == nil {
			return r.kept != nil
		}
		return !kill || r.kill.who == "predecessor" && r.killed != nil
	}); err != nil {
		return err
	}
	c := change{trigger: trigger.Sub(r.load.Begin)}
	defer func() { r.changes = append(r.changes, c) }()
	if r.kept != nil {
		c.serving = r.kept.At.Sub(r.load.Begin)
		if !kill || r.killed == nil {
			r.problem(errors.New(r.kept.Error), "hand over to generation "+fmt.Sprint(r.generations[r.current.Load()-1].number+1))
		}
		return nil
	}
	c.serving, c.to = r.serving.At.Sub(r.load.Begin), r.find(r.serving.PID)
	c.to.handOver = c.serving - c.trigger
	switch {
	case r.paused != nil:
		c.to.pause = r.serving.At.Sub(r.paused.At) + r.paused.Took
	case kill:
		c.to.pause = r.serving.At.Sub(r.killed.At)
	}
	return r.commit(c.to)
}

// commit makes g the current generation.
func (r *trial) commit(g *generation) error {
	r.current.Store(int64(slices.Index(r.generations, g) + 1))
	return r.service.follow(g.pid)
}

// find returns the generation with this pid, nil if it never served.
func (r *trial) find(pid int) *generation {
	i := slices.IndexFunc(r.generations, func(g *generation) bool { return g.pid == pid })
	if i < 0 {
		return nil
	}
	return r.generations[i]
}

// end ends the service when its clients are gone.
func (r *trial) end() error {
	if err := r.service.stop(); err != nil {
		return err
	}
	return r.await(context.Background(), drainTimeout+5*time.Second, func() bool {
		return !slices.ContainsFunc(r.generations, func(g *generation) bool { return !g.ended && !g.killed })
	})
}

// await hears what the generations say until done.
func (r *trial) await(ctx context.Context, timeout time.Duration, done func() bool) error {
	deadline, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for !done() {
		select {
		case e, ok := <-r.service.events:
			if !ok {
				return errEnded
			}
			r.hear(e)
		case <-deadline.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errors.WithMessagef(deadline.Err(), "after %v", timeout)
		}
	}
	return nil
}

func (r *trial) hear(e event) {
	g := r.find(e.PID)
	switch e.Event {
	case handoff.EventServing:
		r.serving = &e
		if r.killed != nil && r.afresh == nil {
			r.afresh = &e
		}
		r.generations = append(r.generations, &generation{number: e.Generation, pid: e.PID})
	case handoff.EventPaused:
		r.paused = &e
	case handoff.EventKept:
		r.kept = &e
	case handoff.EventTookBack:
		r.kept = &e
		if !r.upgrading && g != nil {
			r.problem(errors.New(e.Error), "an upgrade was taken back")
			r.problem(r.commit(g), "follow who took back")
		}
	case handoff.EventDrained:
		if g != nil {
			g.ended, g.requests, g.drain, g.cut = true, e.Requests, e.Took, e.Cut
		}
	case eventKilled:
		r.killed = &e
		if g != nil {
			g.killed = true
		}
	case eventExited:
		r.service.exited()
		if e.Error == "" || r.killed != nil && r.killed.PID == e.PID {
			return
		}
		r.problem(errors.New(e.Error), "pid "+strconv.Itoa(e.PID))
		if r.upgrading && g == nil && r.kept == nil {
			r.kept = &event{At: e.At, Error: "the successor has ended"}
		}
	}
}

// judge finds what is wrong with what the clients saw.
func (r *trial) judge() {
	const details = 5
	failures := r.blame().failed
	if n := len(failures); n > 0 {
		r.problem(errors.Errorf("%s of %s", count(n), count(n+int(r.load.Answered.Load()))), "requests failed")
		for _, f := range failures[:min(n, details)] {
			r.problem(errors.New(f.String()), "failed request")
		}
	}
	if rate, at := slowestSecond(r.load); rate < r.rate {
		r.problem(errors.Errorf("%d in the second from %.1f s on, at least %d were asked for", rate, at.Seconds(), r.rate), "too few requests")
	}
	// Nobody else asks this server, so it must have counted what its clients did.
	served := r.load.Served()
	for _, g := range r.generations {
		from := load.Origin{Generation: g.number, PID: g.pid}
		if n := served[from]; len(failures) == 0 && g.ended && n != g.requests {
			r.problem(errors.Errorf("generation %d served %d requests, and clients have %d answers", g.number, g.requests, n), "wrong count")
		}
		delete(served, from)
	}
	for from := range served {
		r.problem(errors.Errorf("generation %d, pid %d", from.Generation, from.PID), "answers from an unknown process")
	}
}

// problem notes err, if there is one.
func (r *trial) problem(err error, what string) {
	if err != nil {
		r.problems = append(r.problems, errors.WithMessage(err, what).Error())
	}
}

func (r *trial) progress() string {
	return fmt.Sprintf("generation %d of %d, %s requests, %d failed", r.current.Load(), r.upgrades+1,
		count(int(r.load.Answered.Load())), r.load.Failed.Load())
}
