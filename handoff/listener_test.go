//go:build linux

package handoff

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// newTestListener listens until the test ends.
func newTestListener(t *testing.T, network string, parked bool) *listener {
	t.Helper()
	addr := "127.0.0.1:0"
	if network != "tcp" {
		addr = filepath.Join(testutil.ShortDir(t), "socket")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return wrap(t, ln, parked)
}

func wrap(t *testing.T, ln net.Listener, parked bool) *listener {
	t.Helper()
	l, err := newListener("test", ln, parked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.release()
		for _, c := range l.open() {
			_ = c.Close()
		}
	})
	return l
}

func eachNetwork(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			testutil.NoLeaks(t)
			test(t, network)
		})
	}
}

func dialTo(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// An acceptance is what Accept returned.
type acceptance struct {
	conn net.Conn
	err  error
}

// acceptInBackground calls Accept until it fails.
func acceptInBackground(l net.Listener) <-chan acceptance {
	got := make(chan acceptance, 1000)
	go func() {
		for {
			c, err := l.Accept()
			got <- acceptance{c, err}
			if err != nil {
				return
			}
		}
	}()
	return got
}

func pauseNow(t *testing.T, p interface{ pause(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := p.pause(ctx); err != nil {
		t.Fatal(err)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// While clients connect as fast as they can, a pause takes no connection and loses none.
func TestListenerPauseUnderFlood(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		const acceptors, clients, each, pauses = 3, 4, 100, 40
		l := newTestListener(t, network, false)
		var working sync.WaitGroup
		var answered atomic.Int64
		for range acceptors {
			working.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
					_, _ = c.Write([]byte("!")) // it stays open and so counted
				}
			})
		}
		flood := func() {
			for range each {
				c, err := net.Dial(network, l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Errorf("not answered: %v", err)
				}
				answered.Add(1)
				_ = c.Close()
			}
		}
		var clientsDone sync.WaitGroup
		for range clients {
			clientsDone.Go(flood)
		}
		for range pauses {
			pauseNow(t, l)
			before := l.count()
			c := dialTo(t, l) // waits in the queue
			if n := l.count(); n != before {
				t.Errorf("%d connections accepted in a pause", n-before)
			}
			waiting := l.waiting()
			if isClosed(waiting) {
				t.Error("somebody waits in Accept in a pause")
			}
			l.resume()
			<-waiting
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Errorf("the one of the pause was not answered: %v", err)
			}
			_ = c.Close()
		}
		clientsDone.Wait()
		_ = l.Close()
		working.Wait()
		if n := l.count(); n != clients*each+pauses || answered.Load() != clients*each {
			t.Errorf("%d accepted, %d answered", n, answered.Load())
		}
	})
}

func TestListenerPauseWithNobodyAccepting(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		l := newTestListener(t, network, false)
		pauseNow(t, l)
		pauseNow(t, l)
		got := acceptInBackground(l)
		c := dialTo(t, l)
		l.resume()
		a := <-got
		if a.err != nil {
			t.Fatal(a.err)
		}
		_ = c.Close()
		_ = a.conn.Close()
		if n := l.count(); n != 0 {
			t.Errorf("%d are open", n)
		}
	})
}

// A successor's listener accepts only after its resume, however early it is served.
func TestListenerParkedFromStart(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		l := newTestListener(t, network, true)
		got := acceptInBackground(l)
		waiting := l.waiting()
		dialTo(t, l)
		pauseNow(t, l)
		if n := l.count(); n != 0 || isClosed(waiting) {
			t.Errorf("%d accepted", n)
		}
		l.resume()
		<-waiting
		if a := <-got; a.err != nil {
			t.Error(a.err)
		}
	})
}

func TestListenerReleaseWhileParked(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		l := newTestListener(t, network, true)
		first, second := acceptInBackground(l), acceptInBackground(l)
		_ = l.release()
		for _, got := range []<-chan acceptance{first, second} {
			if a := <-got; !errors.Is(a.err, net.ErrClosed) {
				t.Error(a.err)
			}
		}
		if err := l.release(); err != nil {
			t.Error(err)
		}
		if !isClosed(l.released()) {
			t.Error("not released")
		}
		l.resume()
		pauseNow(t, l)
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// copyListener passes a listener through a socketpair, as to a successor.
func copyListener(t *testing.T, l *listener, parked bool) *listener {
	t.Helper()
	var got net.Listener
	passOn(t, l, func(f *scm.Files) (err error) {
		got, err = f.TakeListener(0)
		return err
	})
	return wrap(t, got, parked)
}

// A Close by the user, or by http.Server, does nothing to the successor.
func TestListenerCloseLeavesTheSuccessor(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		l := newTestListener(t, network, false)
		successor := copyListener(t, l, true)
		queued := dialTo(t, l)
		_ = l.Close()
		later := dialTo(t, successor)
		successor.resume()
		got := acceptInBackground(successor)
		for range 2 {
			a := <-got
			if a.err != nil {
				t.Fatal(a.err)
			}
			_, _ = a.conn.Write([]byte("!"))
		}
		for _, c := range []net.Conn{queued, later} {
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestListenerEmpty(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		l := newTestListener(t, network, true)
		const queued = 50
		for range queued {
			dialTo(t, l)
		}
		first, second := acceptInBackground(l), acceptInBackground(l)
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		if err := l.empty(ctx); err != nil {
			t.Fatal(err)
		}
		if n := l.count(); n != queued {
			t.Errorf("%d accepted", n)
		}
		dialTo(t, l)
		if n := l.count(); n != queued {
			t.Errorf("%d accepted afterwards", n)
		}
		_ = l.release()
		for range queued {
			select {
			case <-first:
			case <-second:
			}
		}
		if err := l.empty(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Clients that never rest cannot keep a server from ending.
func TestListenerEmptyWithoutRest(t *testing.T) {
	testutil.NoLeaks(t)
	l := newTestListener(t, "unix", false)
	var busy sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		busy.Go(func() {
			for !stop.Load() {
				if c, err := net.Dial("unix", l.Addr().String()); err == nil {
					_ = c.Close()
				}
			}
		})
	}
	got := make(chan struct{})
	go func() {
		defer close(got)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.empty(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	testutil.Eventually(t, "it does not accept any more", func() bool { // the last one may be about to leave
		l.gate.mu.Lock()
		defer l.gate.mu.Unlock()
		return l.gate.shut && l.gate.inside == 0
	})
	stop.Store(true)
	_ = l.release() // before the clients end: one may wait for room in the queue
	<-got
	busy.Wait()
}

func TestListenerRefusesOthers(t *testing.T) {
	testutil.NoLeaks(t)
	l := newTestListener(t, "tcp", false)
	if _, err := newListener("nested", l, false); !errors.Is(err, ErrItem) {
		t.Error(err)
	}
}

// passOn sends a socket through a socketpair and has take take the copy.
func passOn(t *testing.T, c syscall.Conn, take func(*scm.Files) error) {
	t.Helper()
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := a.Send([]byte("socket"), c); err != nil {
		t.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 64), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := take(&m.Files); err != nil {
		t.Fatal(err)
	}
}
