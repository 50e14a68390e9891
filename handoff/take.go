package handoff

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// A Wish is what the side that wants to serve asks for.
type Wish struct {
	// Name is the service's, the same as the Offering's.
	Name string

	// Policy decides who may be the predecessor. Nil is the same user or root.
	Policy *credentials.Policy

	// Force kills a predecessor that has handed over everything and does not answer any more, and
	// serves. What it was just doing is lost with it.
	Force bool

	// Progress is called when a frame of items has arrived, with how many have and of how many. It must
	// return at once.
	Progress func(arrived, total int)

	Deadlines Deadlines
}

// A Takeover is a handoff from the successor's side, between [Take] and its end.
type Takeover struct {
	// Items are what the predecessor offered, in its order. They are the caller's; Close closes those
	// that nobody took.
	Items []Item

	// Generation is the predecessor's.
	Generation uint64

	driver    *driver
	machine   *successor
	deadlines Deadlines
	name      string
	progress  func(arrived, total int)
	unclaimed []string

	count    int // announced; -1 before the manifest
	received int
	size     int // of all of them
	names    map[string]bool
	late     []Item
	files    []*received // of Items and late
	state    []byte
	complete bool // the state is: the commit came

	adopted chan struct{} // closed when everything has arrived
	owned   chan struct{} // closed when this process owns
	once    sync.Once
}

// Take asks the process at the other end of c, which calls [Offer], for its service. It returns when
// everything has arrived and is what it should be; the predecessor goes on serving. The caller
// prepares itself with the Items, says [Takeover.Ready], and may accept when that returns.
//
// It takes c over. After an error there is nothing to close: [ErrPredecessorGone] if the
// predecessor died, and the caller may begin afresh; [ErrPredecessorHung] if it does not answer; else
// [ErrKept] with the reason, and the predecessor serves. One that closes the connection before it has
// said who it is cannot be told from one that dies then; that is ErrKept too, with
// credentials.ErrPeerGone.
func Take(ctx context.Context, c *scm.Conn, w Wish) (*Takeover, error) {
	wait := w.Deadlines.withDefaults()
	peer, err := begin(ctx, c, w.Policy, wait.Hello)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil, because(ErrPredecessorHung, err)
	case err != nil:
		return nil, because(ErrKept, err)
	}
	m := &successor{force: w.Force}
	d := newDriver(c, "successor")
	t := &Takeover{
		driver: d, machine: m, deadlines: wait, name: w.Name, progress: w.Progress, count: -1, names: map[string]bool{},
		adopted: make(chan struct{}), owned: make(chan struct{}),
	}
	d.machine, d.peer, d.side = m, peer, t
	d.send(sigHello)
	go d.run()
	stop := context.AfterFunc(ctx, func() { d.tell(event{kind: evGiveUp}, ctx.Err()) })
	defer stop()
	select {
	case <-t.adopted:
		return t, nil
	case <-d.done:
	}
	select {
	case <-t.adopted: // and then the predecessor died
		return t, nil
	default:
		return nil, t.lost()
	}
}

// Ready says that this process can serve, and waits for the predecessor's "yours". It returns nil when
// this process owns, also of a predecessor that died in the middle: it must accept from now on, and say so
// with [Takeover.Serving]. After an error this process never will own, its Items are closed, and the
// predecessor serves: [ErrKept], [ErrPredecessorHung]. When ctx is done the handoff is given up, if it still
// can be.
func (t *Takeover) Ready(ctx context.Context) error {
	t.driver.through(stepAdopted, nil)
	stop := context.AfterFunc(ctx, func() { t.driver.tell(event{kind: evGiveUp}, ctx.Err()) })
	defer stop()
	select {
	case <-t.owned:
	case <-t.driver.done:
		select {
		case <-t.owned:
		default:
			return t.lost()
		}
	}
	return nil
}

// PID returns the predecessor's pid.
func (t *Takeover) PID() int { return t.driver.peer.PID }

// Final returns what the predecessor's Pause returned, when Ready has. The items come once, and the caller
// closes them. [ErrStateLost] if the predecessor died before all of it had come: the items that had come are
// there, and no state. This process owns all the same.
func (t *Takeover) Final() (Final, error) {
	f := Final{State: t.state, Items: t.late}
	t.late = nil
	err := t.lostState()
	if err != nil {
		f.State = nil
	}
	return f, err
}

// lostState says whether all of the predecessor's final state has come, when this process owns.
func (t *Takeover) lostState() error {
	if !t.complete {
		return ErrStateLost
	}
	return nil
}

// Serving says that this process accepts on everything that it has claimed, and names the items that it has
// not: the predecessor finishes with those. Until it hears this, it waits to take the service back.
func (t *Takeover) Serving(unclaimed ...string) {
	t.unclaimed = unclaimed
	t.driver.through(stepCommit, nil)
}

// Release asks the predecessor to give up its right to take back, before the end of its probation,
// because this process is about to hand on or to stop. It returns nil when the predecessor has, or is
// dead, and waits for that until ctx is done or the predecessor's answer is overdue
// ([ErrPredecessorHung]). It may be called again then: the predecessor may answer late, or somebody kills it.
func (t *Takeover) Release(ctx context.Context) error {
	t.driver.tell(event{kind: evRelease}, nil)
	ctx, cancel := context.WithTimeoutCause(ctx, t.deadlines.Answer, ErrPredecessorHung)
	defer cancel()
	if err := t.Wait(ctx); err == nil || ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// Wait returns nil when nobody can take the service back from this process any more.
func (t *Takeover) Wait(ctx context.Context) error {
	select {
	case <-t.driver.done:
		if t.settled() {
			return nil
		}
		return t.lost()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// owns reports whether this process owns the service.
func (t *Takeover) owns() bool {
	select {
	case <-t.owned:
		return true
	default:
		return false
	}
}

// settled reports whether this process owns the service and nobody can take it back.
func (t *Takeover) settled() bool {
	select {
	case <-t.driver.done:
		return t.machine.out == outDone || t.machine.out == outAlone
	default:
		return false
	}
}

// Abort gives the handoff up, before Ready or during it, with a reason for the predecessor's log, and
// returns when the predecessor knows, or does not answer. The Items are closed.
func (t *Takeover) Abort(reason error) {
	t.driver.tell(event{kind: evGiveUp}, reason)
	select {
	case <-t.owned: // too late
	case <-t.driver.done:
	}
}

// Close closes the items that nobody took. If this process owns, Close ends the handoff too: a predecessor that can
// still take back hears nothing more, and lets go if this process lives; Wait and Release say os.ErrClosed. It does not end
// a handoff before that, which Abort does.
func (t *Takeover) Close() error {
	for _, items := range [][]Item{t.Items, t.late} {
		for i := range items {
			_ = items[i].Close()
		}
	}
	t.leave()
	return nil
}

// leave ends the handoff of a process that owns.
func (t *Takeover) leave() {
	if t != nil && t.owns() {
		t.driver.tell(event{kind: evLeave}, nil)
		<-t.driver.done
	}
}

// errClosed: Wait and Release after Close. The predecessor has not said whether it can take back.
var errClosed = errors.WithMessage(os.ErrClosed, "handoff: wait for the end of the probation")

// lost says why nobody can say that this process owns for good. The driver is over.
func (t *Takeover) lost() error {
	switch t.machine.out {
	case outFresh:
		return because(ErrPredecessorGone, t.driver.reason)
	case outStuck:
		return because(ErrPredecessorHung, t.driver.reason)
	case outLeft:
		return errClosed
	}
	return because(ErrKept, t.driver.reason)
}

func (t *Takeover) reached(s step) {
	if s == stepAdopted {
		close(t.adopted)
	}
}

func (t *Takeover) wait(s step) time.Duration { return t.deadlines.ofSuccessor(s) }

func (t *Takeover) payload(s signal) []byte {
	switch s {
	case sigHello:
		return hello(t.name, 0)
	case sigAbort:
		return abort(t.driver.reason)
	case sigServing:
		return names(t.unclaimed)
	}
	return nil
}

func (t *Takeover) content(f *frame) (err error) {
	switch f.kind {
	case frameHello:
		if t.machine.at != stepHello {
			return errors.WithMessage(ErrProtocol, "a second hello")
		}
		t.Generation, err = parseHello(f.payload, t.name)
	case frameManifest:
		if t.count >= 0 || t.machine.at != stepOffer {
			return errors.WithMessage(ErrProtocol, "a second manifest")
		}
		if t.count, err = countOf(f.payload); err == nil {
			t.Items = make([]Item, 0, t.count)
			err = sysfd.Grow(t.count)
		}
	case frameItems:
		return t.receiveItems(f)
	case frameOffered:
		if t.machine.at != stepOffer || t.machine.offered {
			return errors.WithMessage(ErrProtocol, "offered twice")
		}
		if len(t.Items) != t.count {
			return errors.WithMessagef(ErrProtocol, "%d items came, %d were announced", len(t.Items), t.count)
		}
		go t.driver.through(stepOffer, nil)
	case frameState:
		if t.machine.at != stepReady {
			return errors.WithMessage(ErrProtocol, "state at the wrong time")
		}
		return records(f.payload, func(tag tag, v []byte) error {
			if tag != tagData {
				return nil
			}
			if len(t.state)+len(v) > maxState {
				return errors.WithMessagef(ErrProtocol, "more than %d bytes of state", maxState)
			}
			t.state = append(t.state, v...)
			return nil
		})
	case frameCommit:
		t.complete = t.complete || t.machine.at == stepReady
	case frameAbort, frameAborted:
		t.driver.fail(parseAbort(f.payload))
	}
	return err
}

// receiveItems takes the items of a frame, in the order of its descriptors.
func (t *Takeover) receiveItems(f *frame) error {
	limit := t.count
	switch t.machine.at {
	case stepOffer:
	case stepReady: // late ones
		limit = maxItems
	default:
		return errors.WithMessage(ErrProtocol, "items at the wrong time")
	}
	files := &received{files: f.files} // a copy that shares what is taken
	index := 0
	to := &t.Items
	if t.machine.at == stepReady {
		to = &t.late
	}
	err := records(f.payload, func(tag tag, v []byte) error {
		if tag != tagItem {
			return nil
		}
		it, err := parseItem(v)
		switch {
		case err != nil:
			return err
		case index >= f.files.Len():
			return errors.WithMessagef(ErrProtocol, "item %q has no descriptor", it.Name)
		case t.received >= limit:
			return errors.WithMessagef(ErrProtocol, "more than the %d items that were announced", max(limit, 0))
		case t.size+it.size() > maxContent:
			return errors.WithMessagef(ErrProtocol, "more than %d bytes of metadata and unread bytes", maxContent)
		}
		t.size += it.size()
		it.files, it.index = files, index
		index++
		t.received++
		*to = append(*to, it)
		return t.verify(&(*to)[len(*to)-1])
	})
	if err == nil && index != f.files.Len() {
		err = errors.WithMessagef(ErrProtocol, "%d descriptors for %d items", f.files.Len(), index)
	}
	if err != nil {
		return err
	}
	f.files = scm.Files{} // they are the items' now
	if index > 0 {
		t.files = append(t.files, files)
	}
	if t.progress != nil {
		t.progress(t.received, max(t.count, t.received))
	}
	err = t.driver.sendFrame(frameAck, appendUint32(nil, tagCount, uint32(t.received)))
	if errors.Is(err, scm.ErrPeerGone) {
		return nil // what it has said before, and why it is gone, is still to be read
	}
	return err
}

// verify checks an item that arrived, while the next ones are on their way.
func (t *Takeover) verify(it *Item) error {
	if it.Kind != Connection && t.machine.at == stepOffer {
		if t.names[it.Name] {
			return errors.WithMessagef(ErrItem, "two items are called %q", it.Name)
		}
		t.names[it.Name] = true
	}
	return it.verify()
}

// perform runs in the driver's goroutine.
func (t *Takeover) perform(k taskKind) {
	switch k {
	case doOwn:
		t.once.Do(func() { close(t.owned) })
	case doDisown:
		var fds []int // all at once: each Discard may wait
		for _, r := range t.files {
			fds = append(fds, takeAll(r.use())...)
			r.done()
		}
		sysfd.Discard(fds)
	}
}
