package handoff

import (
	"context"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pkg/errors"
)

// idleGrace is how long a drain waits for the next request of a kept-alive connection, which it answers
// with "Connection: close": until three quarters of its time are over, or half a minute. To close
// one earlier gains nothing, and its client may be sending at that very moment.
func idleGrace(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Until(deadline)*3/4, 0)
	}
	return 30 * time.Second
}

// Serve serves ln, a listener of [Service.Listen] or one made of it such as crypto/tls's, with srv, an
// *http.Server or another [Server], until the service is handed over or stopped; it returns nil
// then. It takes part in the drain: for an *http.Server it puts itself before Handler and ConnState,
// so that must not have served before.
func (s *Service) Serve(srv Server, ln net.Listener) error {
	return s.draining(srv).serve(ln)
}

func (s *Service) draining(srv Server) draining {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := srv.(*http.Server)
	if d := s.servers[h]; ok && d != nil {
		return d
	}
	d := prepare(srv)
	s.drains = append(s.drains, d)
	if ok {
		s.servers[h] = d.(*httpDrain)
	}
	return d
}

// Drain finishes what is under way and returns when the last connection has ended. Call it when
// [Service.Stopping] is closed. No request is lost: what is queued is accepted and served if nobody
// follows; every connection gets its next request answered, with "Connection: close"; one that
// stays silent is closed when three quarters of the time are over. When ctx is done the rest is cut, and the *[CutError]
// says how many that were. Connections that the program accepts by itself are waited for too.
//
// With a successor, connections of an *http.Server that speak HTTP/1.1 without TLS move to it between two
// requests, and their clients notice nothing, unless Options.CloseIdle is set. The successor's server takes
// them for new ones, and its time for an idle connection (IdleTimeout) begins anew.
//
// Afterwards nothing of the service is left in this process, and the paths of its Unix sockets are gone
// if nobody follows.
//
// In a process that is pid 1, as in a container, and was succeeded, it does not return: the end of pid 1 would be
// the successor's too. It passes signals on to the generation that serves, reaps, and calls os.Exit with the
// exit code of the last one, 128 more than a signal's number, when all have ended.
func (s *Service) Drain(ctx context.Context) error {
	start := time.Now()
	why := s.Reason()
	if why == "" {
		return errors.New("handoff: Drain before the service is stopping")
	}
	s.endArrivals(ctx)
	if why == Told {
		s.manager.drains(ctx)
	}
	s.emptyQueues(ctx, why)
	if why == Told {
		s.closeListeners(ctx)
	}
	cut := s.drainAll(ctx)
	for _, k := range s.all() {
		s.close(k)
	}
	s.control.unlock()
	s.tell(Event{Kind: EventDrained, Took: time.Since(start), Count: cut})
	leave := func() {
		s.cancel()
		s.background.Wait()
	}
	if s.initial != nil && why == HandedOver {
		exit(s.initial.stay(leave))
	}
	leave()
	s.takeover.leave()
	s.arrivals.abandon()
	s.initial.close()
	_ = s.first.Close() // pid 1 sees by it that nobody is left
	if cut > 0 {
		return &CutError{Cut: cut, Err: ctx.Err()}
	}
	return nil
}

// emptyQueues accepts and reads, for a second at most, what clients have queued for sockets that nobody will have
// after this process.
func (s *Service) emptyQueues(ctx context.Context, why Reason) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var emptied sync.WaitGroup
	for _, k := range s.all() {
		if why == Told || s.isLeft(k) {
			emptied.Go(func() { k.empty(ctx) })
		}
	}
	emptied.Wait()
}

// closeListeners closes the listeners of a service that nobody follows. A process that begins afresh waits for the
// lock until their addresses are free, and those of packet sockets, which handlers need for their answers.
func (s *Service) closeListeners(ctx context.Context) {
	answering := false
	for _, k := range s.all() {
		if k.packet != nil {
			answering = true
			continue
		}
		_ = k.pause(ctx) // so that no connection comes that is not counted
		s.close(k)
	}
	if !answering {
		s.control.unlock()
	}
}

// close closes this process's copy of a socket. The last owner takes the path away.
func (s *Service) close(k *socket) {
	k.release()
	if s.Reason() == Told && s.ownsForGood() || s.isLeft(k) {
		k.unlink()
	}
}

// startMoving has idle connections move to the successor, in the background, until their grace is over or stop is
// called.
func (s *Service) startMoving(ctx context.Context, grace time.Duration) (stop func()) {
	s.mu.Lock()
	m := s.mover
	servers := slices.Collect(maps.Values(s.servers))
	s.mu.Unlock()
	if m == nil {
		return func() {}
	}
	if err := m.open(grace / 4); err != nil {
		m.close()
		s.tell(Event{Kind: EventMoved, Err: err})
		return func() {}
	}
	var idle []*conn
	for _, d := range servers {
		d.mover.Store(m)
		idle = append(idle, d.open()...)
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := m.run(ctx, idle)
		if m.moved > 0 || err != nil {
			s.tell(Event{Kind: EventMoved, Count: m.moved, Err: err})
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// exit is a variable for tests.
var exit = os.Exit

// drainAll drains all servers, and what was accepted without one, and returns how many connections
// were cut.
func (s *Service) drainAll(ctx context.Context) (cut int) {
	s.mu.Lock()
	drains := s.drains
	s.mu.Unlock()
	rest := new(serverDrain)
	for _, k := range s.all() {
		if k.listener != nil {
			rest.add(k.listener)
		}
	}
	grace := idleGrace(ctx)
	moving := s.startMoving(ctx, grace)
	defer moving()
	var mu sync.Mutex
	var drained sync.WaitGroup
	for _, d := range append(drains[:len(drains):len(drains)], rest) {
		drained.Go(func() {
			result, _ := d.drain(ctx, grace)
			mu.Lock()
			defer mu.Unlock()
			cut += result.cut // each is counted by the one that cut it
		})
	}
	drained.Wait()
	return cut
}
