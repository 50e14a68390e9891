package handoff

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// machine is what predecessor and successor have in common.
type machine interface {
	handle(event) []task
	step() step
}

func (p *predecessor) step() step { return p.at }
func (s *successor) step() step   { return s.at }

// side is what one side of a handoff does when its machine says so. All but the driver's own calls
// come from one goroutine, run's.
type side interface {
	// content handles what a frame says. An error ends the handoff.
	content(f *frame) error

	// perform does a task other than send and kill.
	perform(taskKind)

	// reached is called when the machine has come to a step.
	reached(step)

	// wait is the deadline of a step; 0 is for ever.
	wait(step) time.Duration

	// payload is what a signal carries.
	payload(signal) []byte
}

// probe is nil but in tests: it is called at every step of either side, and before every task, and may
// kill the process there.
var probe func(role string, at step, before string)

// A driver runs one machine over a connection: it has the socket, the timer, and the pidfd of the
// other side, and reports what happens in an order that a machine can rely on.
type driver struct {
	channel *channel
	machine machine
	side    side
	role    string // "predecessor" or "successor"
	peer    credentials.Sender

	frames   chan arrival
	requests chan request
	closed   bool          // the channel was, by the other side
	reason   error         // the first thing that went wrong, for a person; of run's goroutine until over
	over     chan struct{} // closed when the machine is over,
	done     chan struct{} // and when everything is closed
}

// errLeft is the reason when there is no better one.
var errLeft = errors.WithMessage(io.ErrUnexpectedEOF, "the other side has ended, or closed the channel")

// request is an event of the program, and the error that made it, if one did.
type request struct {
	event
	err error
}

// arrival is what the reader reports: a frame, the end, or that the channel is empty.
type arrival struct {
	frame frame
	err   error
	empty bool
}

func newDriver(c *scm.Conn, role string) *driver {
	return &driver{
		role:     role,
		channel:  newChannel(c),
		frames:   make(chan arrival, readAhead),
		requests: make(chan request),
		over:     make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// tell reports an event of the program, unless the handoff is over.
func (d *driver) tell(e event, err error) {
	select {
	case d.requests <- request{e, err}:
	case <-d.over:
	}
}

// through reports that this side is through with its part of a step, or why it cannot be.
func (d *driver) through(at step, err error) {
	if err != nil {
		d.tell(event{kind: evGiveUp}, err)
		return
	}
	d.tell(event{kind: evLocal, at: at}, nil)
}

// run drives the machine until it is over, and closes the connection and the other side's pidfd.
func (d *driver) run() {
	ctx, cancel := context.WithCancel(context.Background())
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		d.readAll()
	}()
	exit := make(chan struct{})
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		if d.peer.Process.Wait(ctx) == nil {
			close(exit)
		}
	}()
	d.loop(exit)
	if d.closed {
		d.fail(errLeft)
	}
	close(d.over)
	cancel()
	_ = d.channel.conn.Close()
	<-reading
	<-waiting
	d.drop()
	d.channel.close()
	_ = d.peer.Close()
	close(d.done)
}

// drop closes what was read ahead.
func (d *driver) drop() {
	for {
		select {
		case a := <-d.frames:
			discard(&a.frame.files)
		default:
			return
		}
	}
}

// readAhead is how many frames may be read while one is handled.
const readAhead = 4

// readAll reports frames until the end. Told by a deadline in the past, it reports whether the
// channel is empty: after a SIGSTOP and SIGCONT a timer may be seen before what has long been
// waiting to be read.
func (d *driver) readAll() {
	drained := 0
	for {
		f, err := d.channel.read()
		if errors.Is(err, os.ErrDeadlineExceeded) && drained < maxDrained && sysfd.Readable(d.channel.conn) {
			// One message, which may be a piece of a frame; then look again.
			drained++
			_ = d.channel.conn.SetReadDeadline(time.Time{})
			if err = d.channel.fill(); err == nil {
				_ = d.channel.conn.SetReadDeadline(time.Unix(1, 0))
				continue
			}
		}
		var a arrival
		switch {
		case err == nil:
			a.frame = f
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = d.channel.conn.SetReadDeadline(time.Time{})
			a.empty, drained = true, 0
		default:
			a.err = err
		}
		select {
		case d.frames <- a:
		case <-d.over:
			discard(&f.files)
			return
		}
		if a.err != nil {
			return
		}
	}
}

// maxDrained is how many messages may be read before a deadline that has passed is told: a peer that
// never stops talking does not postpone it.
const maxDrained = 1000

// loop is the heart of run. It reports an exit or a timeout only when the channel has been read to its
// end, or is empty.
func (d *driver) loop(exit <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	armed, reached := stepCount, stepCount
	var exited, ended, due, asked bool
	for d.machine.step() != stepOver {
		if at := d.machine.step(); at != armed {
			armed, due = at, false
			if at != reached {
				reached = at
				d.side.reached(at)
				if probe != nil {
					probe(d.role, at, "")
				}
			}
			timer.Stop()
			if wait := d.side.wait(at); wait > 0 {
				timer.Reset(wait)
			}
		}
		// What waits to be told is told when nothing older can be in the channel.
		if (exited || due) && !ended && !asked {
			asked = true
			_ = d.channel.conn.SetReadDeadline(time.Unix(1, 0))
		}
		if ended && exited {
			d.handle(event{kind: evExit})
			exited = false
			continue
		}
		if ended && due {
			due = false
			exited = d.late()
			continue
		}
		select {
		case a := <-d.frames:
			switch {
			case a.empty:
				asked = false
				switch {
				case exited: // its socket is somebody else's too, or it would have ended
					ended = true
				case due:
					due = false
					exited = d.late()
				}
			case a.err != nil:
				ended = true
				if d.closed = a.err == io.EOF || errors.Is(a.err, scm.ErrPeerGone); !d.closed {
					d.fail(a.err)
				}
				d.handle(event{kind: evEnd})
				timer.Reset(deathNotice) // a death follows its last close(2) at once
			default:
				d.received(&a.frame)
			}
		case <-exit:
			exited, exit = true, nil
		case <-timer.C:
			due = true
		case r := <-d.requests:
			if r.err != nil {
				d.fail(r.err)
			}
			d.handle(r.event)
		}
	}
}

// deathNotice is how long after the end of the channel the death of the other side may be told. It is a
// variable for tests.
var deathNotice = 500 * time.Millisecond

// late reports a timeout, if the other side lives, and else that it has exited.
func (d *driver) late() (exited bool) {
	if !d.peer.Process.Alive() {
		return true
	}
	d.fail(errors.WithMessagef(os.ErrDeadlineExceeded, "the step %v took too long", d.machine.step()))
	d.handle(event{kind: evTimeout})
	return false
}

// received handles a frame: its content first, then its signal.
func (d *driver) received(f *frame) {
	defer discard(&f.files)
	if f.kind == 0 || f.kind >= frameTypes {
		return // of a later version
	}
	if err := d.side.content(f); err != nil {
		d.fail(err)
		d.handle(event{kind: evGiveUp})
		return
	}
	if s := signals[f.kind]; s != sigNone {
		d.handle(event{kind: evSignal, signal: s})
	}
}

// fail remembers why.
func (d *driver) fail(err error) {
	if d.reason == nil && err != nil {
		d.reason = err
	}
}

// handle lets the machine decide and does what it says.
func (d *driver) handle(e event) {
	for _, t := range d.machine.handle(e) {
		if probe != nil {
			probe(d.role, d.machine.step(), t.String())
		}
		switch t.do {
		case doSend:
			d.send(t.signal)
		case doKill:
			if err := d.peer.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
				d.fail(err)
				d.handle(event{kind: evKillFailed})
			}
		default:
			d.side.perform(t.do)
		}
	}
}

// send sends a signal. A peer that does not read is found out by the deadline of the step; one that
// is gone by the end of the channel.
func (d *driver) send(s signal) {
	err := d.sendFrame(frameOf(s), d.side.payload(s))
	if err != nil && !errors.Is(err, scm.ErrPeerGone) && !errors.Is(err, net.ErrClosed) {
		d.fail(errors.WithMessagef(err, "handoff: send %v", s))
	}
}

// sendFrame sends a frame without descriptors, and does not wait long for a peer that does not read.
func (d *driver) sendFrame(t frameType, payload []byte) error {
	_ = d.channel.conn.SetWriteDeadline(time.Now().Add(time.Second))
	defer func() { _ = d.channel.conn.SetWriteDeadline(time.Time{}) }()
	return d.channel.conn.Send(newFrame(t, 0, payload))
}

// authenticate makes sure who is at the other end and pins it.
func authenticate(ctx context.Context, c *scm.Conn, policy credentials.Policy) (credentials.Sender, error) {
	peer, err := credentials.Exchange(ctx, c)
	if err != nil {
		return credentials.Sender{}, err
	}
	if err = policy.CheckSender(&peer); err == nil && peer.Process == nil {
		err = unpinned(c)
		// It may know why. A stranger is told nothing.
		_ = c.Send(newFrame(frameAbort, 0, abort(err)))
	}
	if err != nil {
		_ = peer.Close()
		return credentials.Sender{}, err
	}
	return peer, nil
}

// unpinned is ErrUnpinned and, if this process has no room for a pidfd, that.
func unpinned(c *scm.Conn) error {
	var why error
	_ = sysfd.Control(c, func(fd int) error {
		if sysfd.Full(fd) {
			why = errors.WithMessage(os.NewSyscallError("recvmsg", syscall.EMFILE), sysfd.Usage())
		}
		return nil
	})
	return because(ErrUnpinned, why)
}
