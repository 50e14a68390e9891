//go:build linux

package handoff

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// The other side keeps to the frames and not to their order.

// liar is a peer that proves who it is and says hello, and then what it likes.
func liar(t *testing.T, c *scm.Conn, generation uint64) *channel {
	t.Helper()
	s, err := credentials.Exchange(context.Background(), c)
	if err != nil {
		t.Error(err)
		return newChannel(c)
	}
	s.Close()
	_ = c.Send(newFrame(frameHello, 0, hello("web", generation)))
	return newChannel(c)
}

// next reads frames up to one of this kind; false at the end of the channel.
func (ch *channel) skipTo(kind frameType) bool {
	for {
		f, err := ch.read()
		if err != nil {
			return false
		}
		f.files.Close()
		if f.kind == kind {
			return true
		}
	}
}

func TestOfferedTwice(t *testing.T) {
	testutil.NoLeaks(t)
	p, s := pair(t, socketpair.SeqPacket)
	ended := make(chan bool, 1)
	go func() {
		ch := liar(t, p, 1)
		defer ch.close()
		_ = p.Send(newFrame(frameManifest, 0, appendUint32(nil, tagCount, 0)))
		_ = p.Send(newFrame(frameOffered, 0, nil))
		ch.skipTo(frameAdopted)
		_ = p.Send(newFrame(frameOffered, 0, nil))
		_ = p.Send(newFrame(frameCommit, 0, nil))
		ended <- ch.skipTo(frameReady)
	}()
	to, err := Take(t.Context(), s, Wish{Name: "web", Deadlines: Deadlines{Answer: 50 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if <-ended {
		t.Error("it said that it is ready, and the program did not")
	}
	if err := to.Ready(t.Context()); !errors.Is(err, ErrProtocol) {
		t.Errorf("ready: %v", err)
	}
}

// A successor that is early must not make the predecessor commit before it has paused.
func TestEarlySuccessor(t *testing.T) {
	for name, early := range map[string][]frameType{"adopted": {frameAdopted, frameReady}, "serving": {frameServing}} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			p, s := pair(t, socketpair.SeqPacket)
			committed := make(chan bool, 1)
			go func() {
				ch := liar(t, s, 0)
				defer ch.close()
				for _, kind := range early {
					_ = s.Send(newFrame(kind, 0, nil))
				}
				ch.skipTo(frameItems)
				_ = s.Send(newFrame(frameAck, 0, appendUint32(nil, tagCount, 1)))
				ch.skipTo(frameOffered)
				_ = s.Send(newFrame(frameAdopted, 0, nil))
				_ = s.Send(newFrame(frameReady, 0, nil))
				committed <- ch.skipTo(frameCommit)
			}()
			err := Offer(t.Context(), p, Offering{
				Name: "web", Items: []Item{{Name: "x", Kind: Listener, Conn: tcp(t)}},
				Deadlines: Deadlines{Probation: 10 * time.Millisecond, MaxPause: time.Second},
				Pause: func(ctx context.Context) (Final, error) {
					time.Sleep(50 * time.Millisecond) // longer than probation
					return Final{}, errors.New("no")
				},
			})
			if !errors.Is(err, ErrKept) {
				t.Errorf("offer: %v", err)
			}
			if <-committed {
				t.Error("committed, though it could not pause")
			}
		})
	}
}

// One that never stops talking does not postpone a deadline, and what was read of it then is closed.
func TestFlood(t *testing.T) {
	testutil.NoLeaks(t)
	p, s := pair(t, socketpair.SeqPacket)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ch := liar(t, p, 1)
		defer ch.close()
		for p.Send(newFrame(200, 1, nil), os.Stdin) == nil {
		}
	}()
	ended := make(chan error, 1)
	go func() {
		_, err := Take(t.Context(), s, Wish{Name: "web", Deadlines: Deadlines{Offer: 50 * time.Millisecond, Answer: 50 * time.Millisecond}})
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrPredecessorHung) {
			t.Errorf("take: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("deadlines of 50 ms, and Take does not return")
	}
	<-done
}

// A pause that takes too long has ended before the service resumes.
func TestResumeComesBehindPause(t *testing.T) {
	testutil.NoLeaks(t)
	p, s := pair(t, socketpair.SeqPacket)
	var order []string
	done := make(chan error, 1)
	go func() {
		done <- Offer(t.Context(), p, Offering{
			Name: "web", Deadlines: Deadlines{MaxPause: 10 * time.Millisecond},
			Pause: func(ctx context.Context) (Final, error) {
				<-ctx.Done()
				time.Sleep(1200 * time.Millisecond) // slow to notice: the predecessor goes on after a second
				order = append(order, "paused")
				return Final{}, nil
			},
			Resume: func() { order = append(order, "resumed") },
		})
	}()
	to, err := Take(t.Context(), s, Wish{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Ready(t.Context()); !errors.Is(err, ErrKept) {
		t.Errorf("ready: %v", err)
	}
	if err := <-done; !errors.Is(err, ErrKept) || len(order) != 2 || order[1] != "resumed" {
		t.Errorf("offer: %v, %q", err, order)
	}
}

// A release that comes too early changes nothing.
func TestEarlyRelease(t *testing.T) {
	testutil.NoLeaks(t)
	p, s := pair(t, socketpair.SeqPacket)
	done := make(chan error, 1)
	go func() {
		done <- Offer(t.Context(), p, Offering{Name: "web", Deadlines: Deadlines{Probation: time.Millisecond, MaxPause: patient}})
	}()
	to, err := Take(t.Context(), s, Wish{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := to.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("release: %v", err)
	}
	if err := to.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	to.Serving()
	if err := errors.Join(to.Wait(t.Context()), <-done); err != nil {
		t.Error(err)
	}
}

// offeringOn is the predecessor's side over c, without its driver.
func offeringOn(ctx context.Context, c *scm.Conn, o Offering) *offering {
	ctx, cancel := context.WithCancel(ctx)
	return &offering{
		Offering: o, ctx: ctx, cancel: cancel, driver: newDriver(c, "predecessor"), deadlines: o.Deadlines.withDefaults(),
		acks: make(chan int, 1), paused: make(chan struct{}),
	}
}

// A successor that does not acknowledge late items does not prolong the pause.
func TestPauseEndsWithoutAcknowledgement(t *testing.T) {
	testutil.NoLeaks(t)
	c, s := pair(t, socketpair.SeqPacket)
	defer c.Close()
	defer s.Close()
	p := offeringOn(t.Context(), c, Offering{
		Deadlines: Deadlines{MaxPause: time.Millisecond},
		Pause: func(context.Context) (Final, error) {
			return Final{Items: []Item{{Name: "late", Kind: File, Conn: os.Stdin}}}, nil
		},
	})
	defer p.cancel()
	err := within(t, p.pause)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) { // that, if it had not sent them
		t.Errorf("pause: %v", err)
	}
}

// The end of a pause cuts off what it sends before the pause has ended, and so never what is said after it.
func TestPauseIsCutOffInTime(t *testing.T) {
	testutil.NoLeaks(t)
	cut := 0
	for range 200 {
		c, s := pair(t, socketpair.SeqPacket)
		p := offeringOn(t.Context(), c, Offering{
			Deadlines: Deadlines{MaxPause: time.Microsecond},
			Pause:     func(ctx context.Context) (Final, error) { <-ctx.Done(); return Final{}, nil },
		})
		if err := within(t, p.pause); err != nil {
			t.Fatalf("pause: %v", err)
		}
		switch err := c.Send([]byte("x")); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			cut++
		case err != nil:
			t.Fatalf("send: %v", err)
		default: // who ends the context was not run between telling the pause and the end of it, and so found nothing to do
			time.Sleep(10 * time.Millisecond)
			if err := c.Send([]byte("x")); err != nil {
				t.Fatalf("send, some time after the pause: %v", err)
			}
		}
		if err := p.driver.sendFrame(frameCommit, nil); err != nil {
			t.Fatalf("commit: %v", err)
		}
		p.cancel()
		c.Close()
		s.Close()
	}
	if cut == 0 {
		t.Error("no pause was cut off")
	}
}

// A predecessor that gives up while the program takes the items: what it has taken is its own, and the rest is closed,
// each once.
func TestTakeWhilePredecessorGivesUp(t *testing.T) {
	testutil.NoLeaks(t)
	const count = 200
	p, s := pair(t, socketpair.SeqPacket)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ch := liar(t, p, 1)
		defer ch.close()
		var items []Item
		for i := range count {
			items = append(items, Item{Name: strconv.Itoa(i), Kind: File, Conn: os.Stdin})
		}
		_ = p.Send(newFrame(frameManifest, 0, appendUint32(nil, tagCount, count)))
		frame, files := nextItems(items, nil, nil)
		_ = p.Send(frame, files...)
		_ = p.Send(newFrame(frameOffered, 0, nil))
		ch.skipTo(frameAdopted)
		_ = p.Send(newFrame(frameAbort, 0, nil))
		ch.skipTo(frameTypes) // the end
	}()
	to, err := Take(t.Context(), s, Wish{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range to.Items {
		if f := to.Items[i].TakeFile(); f != nil {
			if _, err := f.Stat(); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := to.Ready(t.Context()); !errors.Is(err, ErrKept) {
		t.Errorf("ready: %v", err)
	}
	<-ended
}

// A predecessor that gives up while its items are on their way says why, and an acknowledgement that finds it gone does
// not take the place of that.
func TestTakeHearsWhy(t *testing.T) {
	testutil.NoLeaks(t)
	p, s := pair(t, socketpair.SeqPacket)
	left := make(chan struct{})
	go func() {
		defer close(left)
		ch := liar(t, p, 1)
		defer ch.close()
		_ = p.Send(newFrame(frameManifest, 0, appendUint32(nil, tagCount, 2)))
		_ = p.Send(newFrame(frameItems, 1, (&Item{Name: "x", Kind: File}).append(nil)), os.Stdin)
		_ = p.Send(newFrame(frameAbort, 0, abort(errors.New("it was told to stop"))))
	}()
	_, err := Take(t.Context(), s, Wish{Name: "web", Progress: func(int, int) { <-left }})
	if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "it was told to stop") {
		t.Errorf("take: %v", err)
	}
}

// Items of the service's own that do not add up are refused, and closed.
func TestServiceRefusesItems(t *testing.T) {
	lock := Item{Name: lockItem, Kind: File, Conn: os.Stdin}
	for name, items := range map[string]func(ln *net.TCPListener, c *scm.Conn) []Item{
		"a lock without its socket": func(*net.TCPListener, *scm.Conn) []Item { return []Item{lock} },
		"a socket without its lock": func(ln *net.TCPListener, _ *scm.Conn) []Item {
			return []Item{{Name: controlItem, Kind: Listener, Conn: ln}}
		},
		"two locks": func(ln *net.TCPListener, c *scm.Conn) []Item {
			two := Item{Name: lockItem, Kind: Connection, Conn: c}
			return []Item{{Name: controlItem, Kind: Listener, Conn: ln}, two, two}
		},
		"moves twice": func(_ *net.TCPListener, c *scm.Conn) []Item {
			moves := Item{Name: movesItem, Kind: Connection, Conn: c}
			return []Item{moves, moves}
		},
		"pid 1 twice": func(_ *net.TCPListener, c *scm.Conn) []Item {
			first := Item{Name: initItem, Kind: Connection, Conn: c}
			return []Item{first, first}
		},
		"two of one name": func(_ *net.TCPListener, c *scm.Conn) []Item {
			two := Item{Name: "x", Kind: Connection, Conn: c}
			return []Item{two, two}
		},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, socketpair.SeqPacket)
			defer a.Close()
			defer b.Close()
			p, c := pair(t, socketpair.SeqPacket)
			offered := make(chan error, 1)
			go func() { offered <- Offer(t.Context(), p, Offering{Name: "web", Items: items(tcp(t), a)}) }()
			svc, err := Start(t.Context(), Options{Name: "web", Program: "/bin/true"})
			if err != nil {
				t.Fatal(err)
			}
			if err := svc.takeFrom(t.Context(), c); !errors.Is(err, ErrItem) {
				t.Errorf("taken, with %v", err)
				svc.takeover.Abort(nil)
			}
			if err := <-offered; !errors.Is(err, ErrKept) {
				t.Errorf("offer: %v", err)
			}
			svc.takeover = nil
			_ = svc.first.Close()
			svc.arrivals.end(t.Context())
			svc.release()
			svc.stop(Told)
			if err := svc.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
