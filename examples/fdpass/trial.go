package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// A trial is one run: a service, its load, and what was seen of them.
type trial struct {
	options
	service *service
	load    *load

	generations []*generation // number 1 first
	changes     []change
	problems    []string // why the exit status is not 0

	current atomic.Int64 // the generation that serves, for the progress line

	// What was heard of the upgrade that is under way.
	serving  *event
	servesAt time.Time
	handed   *event
	failed   *event
}

// A generation is what was seen of one.
type generation struct {
	number, pid int
	handOver    time.Duration // from the trigger until it served; 0 for the first
	pause       time.Duration // the part of it in which nobody accepted
	ended       bool
	drain       time.Duration // how long its last connections took
	idle, cut   int           // see drained
	requests    int64         // by its own count
}

// A change is the time of a hand-over, after the begin of the load.
type change struct {
	trigger, serving time.Duration
	to               *generation // nil if it failed
}

// try makes the trial. Afterwards there is something to report if load is set.
func (r *trial) try(ctx context.Context, stderr io.Writer) {
	s, err := startService(r.addr)
	if err != nil {
		r.problem(err, "start the server")
		return
	}
	defer func() { r.problem(s.close(), "the first generation") }()
	r.service = s
	if err := r.await(ctx, handOverTimeout, func() bool { return r.serving != nil }); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errEnded) { // how it ended is told anyway
			r.problem(err, "start the server")
		}
		return
	}
	addr := r.serving.Addr
	if err := r.commit(&generation{number: 1, pid: r.serving.PID}); err != nil {
		r.problem(err, "start the server")
		return
	}
	r.load = startLoad(addr, r.clients)
	p := startProgress(stderr, r.progress)
	if err := r.upgradeAll(ctx); ctx.Err() == nil {
		r.problem(err, "upgrade")
	}
	r.load.stop()
	r.problem(r.end(), "end the server")
	p.stop()
	r.judge()
}

func (r *trial) upgradeAll(ctx context.Context) error {
	if err := r.rest(ctx); err != nil {
		return err
	}
	for range r.upgrades {
		if err := r.upgrade(ctx); err != nil {
			return err
		}
		if err := r.rest(ctx); err != nil {
			return err
		}
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

// upgrade has the current generation replace itself. That it fails to is a problem, but no error:
// the trial goes on.
func (r *trial) upgrade(ctx context.Context) error {
	r.serving, r.handed, r.failed = nil, nil, nil
	trigger := time.Now()
	if err := r.service.upgrade(); err != nil {
		return err
	}
	// An interruption waits for the end of it: else a process would serve that we do not know of.
	if err := r.await(context.WithoutCancel(ctx), handOverTimeout+pauseTimeout+5*time.Second, func() bool {
		return r.serving != nil && r.handed != nil || r.failed != nil
	}); err != nil {
		return err
	}
	c := change{trigger: trigger.Sub(r.load.begin), serving: time.Since(r.load.begin)}
	defer func() { r.changes = append(r.changes, c) }()
	number := len(r.generations) + 1
	if r.failed != nil {
		r.problem(errors.New(r.failed.Error), fmt.Sprintf("hand over to generation %d", number))
		return nil
	}
	c.serving = r.servesAt.Sub(r.load.begin)
	c.to = &generation{
		number:   number,
		pid:      r.serving.PID,
		handOver: c.serving - c.trigger,
		pause:    r.handed.Pause,
	}
	return r.commit(c.to)
}

// commit makes g the current generation.
func (r *trial) commit(g *generation) error {
	r.generations = append(r.generations, g)
	r.current.Store(int64(g.number))
	return r.service.follow(g.pid)
}

// end ends the service when its clients are gone.
func (r *trial) end() error {
	if err := r.service.stop(); err != nil {
		return err
	}
	return r.await(context.Background(), drainTimeout+5*time.Second, func() bool {
		for _, g := range r.generations {
			if !g.ended {
				return false
			}
		}
		return true
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
	switch e.Event {
	case serving:
		r.serving, r.servesAt = &e, time.Now()
	case handed:
		r.handed = &e
	case failed:
		r.failed = &e
	case ended:
		if e.Generation <= len(r.generations) {
			g := r.generations[e.Generation-1]
			g.ended, g.requests, g.drain, g.idle, g.cut = true, e.Requests, e.Drain, e.Idle, e.Cut
		}
	}
}

// judge finds what is wrong with what the clients saw.
func (r *trial) judge() {
	const details = 5
	failures := r.load.failures()
	if n := len(failures); n > 0 {
		r.problem(errors.Errorf("%s of %s", count(n), count(n+int(r.load.answered.Load()))), "requests failed")
		for _, f := range failures[:min(n, details)] {
			r.problem(errors.New(f.String()), "failed request")
		}
	}
	if rate, at := r.load.slowest(); rate < r.rate {
		r.problem(errors.Errorf("%d in the second from %.1f s on, at least %d were asked for", rate, at.Seconds(), r.rate), "too few requests")
	}
	// Nobody else asks this server, so it must have counted what its clients did.
	served := r.load.served()
	for _, g := range r.generations {
		from := origin{g.number, g.pid}
		if n := served[from]; len(failures) == 0 && g.ended && n != g.requests {
			r.problem(errors.Errorf("generation %d served %d requests, and clients have %d answers", g.number, g.requests, n), "wrong count")
		}
		delete(served, from)
	}
	for from := range served {
		r.problem(errors.Errorf("generation %d, pid %d", from.generation, from.pid), "answers from an unknown process")
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
		count(int(r.load.answered.Load())), r.load.failed.Load())
}
