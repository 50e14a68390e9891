package handoff

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// An Offering is what the side that serves now offers, and what it does meanwhile.
type Offering struct {
	// Name is the service's. A successor that wants another is refused.
	Name string

	// Generation counts the processes of the service, for the successor's and the logs' sake.
	Generation uint64

	// Items are offered in this order.
	Items []Item

	// Pause stops accepting and reading, reversibly, and returns what is final now and goes with the
	// commit. Until it returns nil the predecessor owns, so an error keeps it serving. From then on it
	// must not accept, unless Resume is called. It must return soon when its context ends, with
	// Deadlines.MaxPause. Nil pauses nothing.
	Pause func(context.Context) (Final, error)

	// Resume accepts and reads again, after a pause or a commit that came to nothing. It is called once
	// at most, when Pause has returned, and before Offer returns.
	Resume func()

	// Unclaimed is told, before Offer returns nil, the names of the items that the successor does not want.
	// Nobody but this process has those.
	Unclaimed func(names []string)

	// Progress is called when the successor has acknowledged a frame of items, with how many it has and of
	// how many. It must return at once.
	Progress func(acknowledged, total int)

	// Policy decides who may be the successor. The zero Policy is the same user or root.
	Policy *credentials.Policy

	Deadlines Deadlines

	// Of a Service, or nil. peer has proved already who it is, and Offer takes it over; admit says whether this process may be the successor;
	// letGo is called before the successor hears that nobody can take back from it, and must return in half of
	// Deadlines.Answer.
	peer  *credentials.Sender
	admit func(*credentials.Sender) error
	letGo func(pid int)
}

// Final is what a predecessor knows only when it has paused.
type Final struct {
	State []byte // up to 64 MiB
	Items []Item // such as connections with what was read from them; borrowed until Offer returns
}

// Offer hands a service over to the process at the other end of c, as a transaction: it returns nil
// when the successor serves and this process has given up its right to take the service back. With an
// error this process serves, as before or again: [ErrKept] and [ErrTookBack] tell which, and what was
// wrong is there for errors.Is too.
//
// It takes c over and closes it; c is a stream or SOCK_SEQPACKET, either end of a pair or a connection,
// and nothing else may have been sent or received on it but by the other side's [Take]. It borrows
// the items. It blocks for the whole of the handoff; when ctx is done before the commit, the
// handoff is given up. After the commit only the successor's word or its death ends it.
func Offer(ctx context.Context, c *scm.Conn, o Offering) error {
	if err := checkItems(nil, o.Items); err != nil {
		_ = c.Close()
		_ = o.peer.Close()
		return because(ErrKept, err)
	}
	wait := o.Deadlines.withDefaults()
	peer, err := o.begin(ctx, c)
	if err != nil {
		return because(ErrKept, err)
	}
	if o.admit != nil {
		if err := o.admit(&peer); err != nil {
			return turnAway(c, peer, o, err)
		}
	}
	m := new(predecessor)
	d := newDriver(c, "predecessor")
	d.machine, d.peer = m, peer
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &offering{
		Offering: o, ctx: working, cancel: cancel, driver: d, deadlines: wait,
		acks: make(chan int, 1), paused: make(chan struct{}),
	}
	d.side = p
	stop := context.AfterFunc(ctx, func() { d.tell(event{kind: evGiveUp}, ctx.Err()) })
	defer stop()
	d.send(sigHello)
	d.run()
	cancel()
	p.work.Wait()
	switch m.out {
	case outDone:
		if len(p.unclaimed) > 0 && o.Unclaimed != nil {
			o.Unclaimed(p.unclaimed)
		}
		return nil
	case outTookBack:
		return because(ErrTookBack, d.reason)
	}
	return because(ErrKept, d.reason)
}

// refuse tells a successor that proves who it is why it gets nothing.
func refuse(ctx context.Context, c *scm.Conn, o Offering, why error) error {
	peer, err := o.begin(ctx, c)
	if err != nil {
		return because(ErrKept, err)
	}
	return turnAway(c, peer, o, why)
}

// turnAway tells a peer that has proved who it is why it gets nothing, and closes both.
func turnAway(c *scm.Conn, peer credentials.Sender, o Offering, why error) error {
	defer peer.Close()
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_ = c.Send(newFrame(frameHello, 0, hello(o.Name, o.Generation)))
	_ = c.Send(newFrame(frameAbort, 0, abort(why)))
	return because(ErrKept, why)
}

// because joins how a handoff ended and why.
func because(how, why error) error {
	if why == nil {
		return how
	}
	return &ended{how, why}
}

type ended struct{ how, why error }

func (e *ended) Error() string   { return e.how.Error() + ": " + e.why.Error() }
func (e *ended) Unwrap() []error { return []error{e.how, e.why} }

// policyOr returns the policy, or the one that there is without one.
func policyOr(policy *credentials.Policy) credentials.Policy {
	if policy != nil {
		return *policy
	}
	return credentials.AnyOf(credentials.SameUser(), credentials.Root())
}

// begin makes sure who is at the other end, unless that is known. The Sender is the caller's to close.
func (o *Offering) begin(ctx context.Context, c *scm.Conn) (credentials.Sender, error) {
	if o.peer != nil {
		return *o.peer, nil
	}
	return begin(ctx, c, o.Policy, o.Deadlines.withDefaults().Hello)
}

// begin makes sure who is at the other end. After an error c is closed.
func begin(ctx context.Context, c *scm.Conn, policy *credentials.Policy, limit time.Duration) (credentials.Sender, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	peer, err := authenticate(ctx, c, policyOr(policy))
	if err != nil {
		_ = c.Close()
	}
	return peer, err
}

// offering is the predecessor's side.
type offering struct {
	Offering
	ctx       context.Context
	cancel    context.CancelFunc
	driver    *driver
	deadlines Deadlines
	acks      chan int
	paused    chan struct{} // closed when Pause has returned
	work      sync.WaitGroup
	unclaimed []string
}

func (p *offering) reached(step) {}

func (p *offering) wait(s step) time.Duration { return p.deadlines.ofPredecessor(s) }

func (p *offering) payload(s signal) []byte {
	switch s {
	case sigHello:
		return hello(p.Name, p.Generation)
	case sigAbort, sigAborted:
		return abort(p.driver.reason)
	}
	return nil
}

func (p *offering) content(f *frame) error {
	switch f.kind {
	case frameHello:
		if _, err := parseHello(f.payload, p.Name); err != nil {
			return err
		}
		if p.driver.machine.step() != stepHello {
			return errors.WithMessage(ErrProtocol, "a second hello")
		}
		p.work.Go(func() { p.driver.through(stepOffer, errors.WithMessage(p.offer(), "handoff: send the items")) })
	case frameAck:
		n, err := countOf(f.payload)
		if err != nil {
			return err
		}
		select {
		case <-p.acks: // an older one
		default:
		}
		p.acks <- n
	case frameServing:
		if at := p.driver.machine.step(); at != stepCommit && at != stepKilling {
			return errors.WithMessage(ErrProtocol, "it says that it serves, and nobody asked it to")
		}
		unclaimed, err := parseNames(f.payload)
		if err != nil {
			return err
		}
		p.unclaimed = unclaimed
	case frameAbort:
		p.driver.fail(parseAbort(f.payload))
	}
	return nil
}

// perform runs in the driver's goroutine.
func (p *offering) perform(k taskKind) {
	switch k {
	case doPause:
		p.work.Go(func() {
			err := p.pause()
			close(p.paused)
			p.driver.through(stepReady, err)
		})
	case doResume:
		// A Pause that is still under way must not end behind the Resume.
		p.cancel()
		select {
		case <-p.paused: // at once, unless the program's own part does not look at its context
		case <-time.After(time.Second):
		}
		p.work.Go(func() {
			<-p.paused
			if p.Resume != nil {
				p.Resume()
			}
		})
	case doLetGo:
		if p.letGo != nil {
			p.letGo(p.driver.peer.PID)
		}
	}
}

func (p *offering) pause() error {
	if p.Pause == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.deadlines.MaxPause)
	defer cancel()
	// A successor that reads nothing does not prolong the pause. What is said behind it has a deadline of its own, which
	// this one must not come after.
	conn, cut := p.driver.channel.conn, make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(past); close(cut) })
	defer func() {
		if !stop() {
			<-cut
		}
	}()
	final, err := p.Pause(ctx)
	if err != nil {
		return errors.WithMessage(err, "handoff: pause")
	}
	if len(final.State) > maxState {
		return errors.WithMessagef(ErrItem, "the state has %d bytes, %d are the limit", len(final.State), maxState)
	}
	if err := checkItems(p.Items, final.Items); err != nil {
		return err
	}
	if err := p.sendItems(ctx, final.Items, len(p.Items)); err != nil {
		return errors.WithMessage(err, "handoff: send the late items")
	}
	for chunk := range slices.Chunk(final.State, maxPayload-16) {
		if err := conn.Send(newFrame(frameState, 0, appendBytes(nil, tagData, chunk))); err != nil {
			return errors.WithMessage(err, "handoff: send the state")
		}
	}
	return nil
}

// unacknowledged is how many items may be on their way. The other side is never idle for want of items, and leaves
// to the user's other processes half of the descriptors that may be in flight: the kernel counts them for an
// ordinary user, and its bound is this process's RLIMIT_NOFILE.
func unacknowledged() int { return max(itemsPerFrame, int(min(8*itemsPerFrame, sysfd.Limit()/2))) }

// offer sends the count first, so that the successor can grow its table once, and then the items.
func (p *offering) offer() error {
	count := uint32(len(p.Items))
	if err := p.driver.channel.conn.Send(newFrame(frameManifest, 0, appendUint32(nil, tagCount, count))); err != nil {
		return err
	}
	return p.sendItems(p.ctx, p.Items, 0)
}

// crowded is how long items wait while the user's other processes have as many descriptors in flight as there may be. It is
// a variable for tests.
var crowded = 5 * time.Second

// sendItems sends items, as many in a frame as fit, and waits until all are acknowledged, or ctx ends. The
// acknowledgements count from the beginning of the handoff, in which before were sent earlier.
func (p *offering) sendItems(ctx context.Context, items []Item, before int) error {
	conn := p.driver.channel.conn
	count, window := len(items), unacknowledged()
	var frame []byte
	var files []syscall.Conn
	var since time.Time // when there began to be no room, though none of ours are in flight
	for sent, acked := 0, 0; acked < count; {
		var again <-chan time.Time
		if sent < count && sent-acked < window {
			frame, files = nextItems(items[sent:], frame, files)
			err := conn.Send(frame, files...)
			if err == nil {
				sent, since = sent+len(files), time.Time{}
				continue
			}
			if !errors.Is(err, scm.ErrInFlight) {
				return err
			}
			if sent == acked {
				if since.IsZero() {
					since = time.Now()
				}
				if time.Since(since) > crowded {
					return err
				}
				again = time.After(5 * time.Millisecond) // nothing tells when others have received
			}
		}
		select {
		case <-again:
		case n := <-p.acks:
			if n -= before; n < acked || n > sent {
				return errors.WithMessagef(ErrProtocol, "%d items acknowledged, %d were sent", n, sent)
			}
			acked = n
			if p.Progress != nil {
				p.Progress(before+acked, before+count)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-p.driver.over:
			return nil
		}
	}
	return nil
}

// nextItems makes the frame of as many items as fit, and returns it with their files. Both are in the
// room of those that are passed in, if that is enough.
func nextItems(items []Item, frame []byte, files []syscall.Conn) ([]byte, []syscall.Conn) {
	frame, files = append(frame[:0], make([]byte, frameHeader)...), files[:0]
	for _, it := range items[:min(len(items), itemsPerFrame)] {
		b := it.append(frame)
		if len(files) > 0 && len(b) > frameHeader+maxPayload {
			break
		}
		frame, files = b, append(files, it.Conn)
	}
	seal(frame, frameItems, len(files))
	return frame, files
}
