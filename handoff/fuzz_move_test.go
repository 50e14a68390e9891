//go:build linux

package handoff

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// recordMoves records three connections that move in two batches.
func recordMoves(t testing.TB) []logged {
	t.Helper()
	r := &relay{packets: true, count: [2]int{2, 2}} // nobody says who he is
	var conns [2]*scm.Conn
	for i := range conns {
		near, far := channelPair(t)
		defer far.Close()
		r.fds[i], conns[i] = int(far.Fd()), near
	}
	m, conns3 := &mover{conn: conns[0], limit: 10 * time.Second, more: make(chan struct{}, 1)}, moving(t)
	maker, err := credentials.PeerProcess(conns[1])
	if err != nil {
		t.Fatal(err)
	}
	a := &arrivals{conn: conns[1], maker: maker}
	into := webListener(t)
	defer endListener(into)
	a.begin([]*listener{into})
	moved := make(chan error, 1)
	go func() {
		defer m.close()
		moved <- errors.Join(m.open(m.limit), m.move(conns3.conns[:2]), m.move(conns3.conns[2:]))
	}()
	if err := r.rest(); err != nil {
		t.Error(err)
	}
	if err := <-moved; err != nil {
		t.Error(err)
	}
	<-a.done
	if into.count() != 3 {
		t.Errorf("%d connections have arrived", into.count())
	}
	conns3.close()
	return r.log
}

// channelPair is a Conn, and the other end as a number that a puppet uses.
func channelPair(t testing.TB) (*scm.Conn, *os.File) {
	t.Helper()
	near, far, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	c, err := scm.NewConn(near)
	if err != nil {
		t.Fatal(err)
	}
	return c, far
}

func webListener(t testing.TB) *listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newListener("web", ln, true)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func endListener(l *listener) {
	_ = l.release()
	for _, c := range l.open() {
		_ = c.Close()
	}
}

// A standstill is three connections that have stopped, and their clients' ends.
type standstill struct {
	conns   []*conn
	clients []net.Conn
}

func moving(t testing.TB) (s standstill) {
	t.Helper()
	l := &listener{name: "web", conns: map[*conn]struct{}{}}
	for range 3 {
		a, b, err := socketpair.New(socketpair.Stream)
		if err != nil {
			t.Fatal(err)
		}
		c := l.add(newConn(l, a))
		c.halt.stopped = true
		s.conns, s.clients = append(s.conns, c), append(s.clients, b)
	}
	return s
}

func (s standstill) close() {
	for i, c := range s.conns {
		_ = c.Close()
		_ = s.clients[i].Close()
	}
}

// FuzzMoves plays what passes when connections move, changed, against a live successor (even) or predecessor.
// Of how, bit 1 closes the channel at the end; bit 2: the predecessor is dead.
func FuzzMoves(f *testing.F) {
	notice := deathNotice
	deathNotice = 3 * time.Millisecond
	f.Cleanup(func() { deathNotice = notice })
	// A process that has been.
	cmd := exec.Command(os.Args[0], "-test.run", "^$")
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	dead, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(dead) })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	log := recordMoves(f)
	var after [2][]int
	for i, from := range []byte("PS") {
		var data []byte
		data, after[i] = conversation(log, from)
		for how := uint8(i); how < 8; how += 2 {
			f.Add(how, data, []byte(nil))
			for j := range frames(data) {
				f.Add(how, data, []byte{0, byte(j), 0, 0})
				f.Add(how, data, []byte{3, byte(j), 9, 1})
				f.Add(how, data, []byte{5, byte(j), 1, 0})
			}
		}
	}
	items := frames(first(conversation(log, 'P')))[0]
	f.Add(uint8(2), items, []byte(nil))
	f.Add(uint8(6), items, []byte(nil))
	f.Add(uint8(0), append(bytes.Clone(items), newFrame(frameAbort, 0, abort(errors.New("no")))...), []byte(nil))
	f.Add(uint8(1), newFrame(frameWants, 0, names([]string{"web", "other"})), []byte(nil))

	client, server, err := socketpair.New(socketpair.Stream)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { client.Close(); server.Close() })
	conn, err := server.File()
	if err != nil {
		f.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close(); null.Close() })
	props := []int{int(conn.Fd()), int(conn.Fd()), int(null.Fd())}

	f.Fuzz(func(t *testing.T, how uint8, data, script []byte) {
		testutil.NoLeaks(t)
		near, far := channelPair(t)
		defer far.Close()
		all := frames(bytes.Clone(data))
		nfds := make([]int, len(all))
		for i, b := range all {
			if len(b) >= 8 && b[0] == byte(frameItems) {
				nfds[i] = int(binary.BigEndian.Uint16(b[2:]))
			}
		}
		all, nfds = change(all, nfds, script)
		closed := 0 // connections of which the predecessor says that they are the successor's
		for _, b := range all {
			if fr, err := parsePacket(b); err == nil && fr.kind == frameClosed {
				if n, err := countOf(fr.payload); err == nil {
					closed = max(closed, n)
				}
			}
		}
		over := make(chan struct{})
		p := &puppet{fd: int(far.Fd()), news: make(chan struct{}, 1), anonymous: true}
		var playing sync.WaitGroup
		playing.Go(func() { p.listen(over) })
		spoken := make(chan struct{})
		playing.Go(func() {
			defer close(spoken)
			p.speak(all, nfds, after[how&1], props, over)
			if how&2 != 0 {
				_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
			}
		})
		finished := make(chan error, 1)
		if how&1 == 0 {
			maker, err := credentials.PeerProcess(near)
			if how&4 != 0 {
				var pidfd int
				if pidfd, err = unix.FcntlInt(uintptr(dead), unix.F_DUPFD_CLOEXEC, 3); err == nil {
					_ = maker.Close()
					maker, err = credentials.NewProcess(os.NewFile(uintptr(pidfd), "pidfd"))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			into := webListener(t)
			defer endListener(into)
			go func() { finished <- fuzzArrive(near, maker, into, p, spoken, closed, how&4 != 0) }()
		} else {
			go func() { finished <- fuzzMove(t, near, p, how&2 != 0) }()
		}
		select {
		case err := <-finished:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it did not end")
		}
		close(over)
		playing.Wait()
	})
}

// fuzzArrive takes what comes, until the predecessor has nothing more to say, and says what is wrong about that.
func fuzzArrive(c *scm.Conn, maker *credentials.Process, into *listener, p *puppet, spoken <-chan struct{}, closed int, isDead bool) error {
	a := &arrivals{conn: c, maker: maker}
	a.begin([]*listener{into})
	<-spoken
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Millisecond)
	defer cancel()
	a.end(ctx)
	_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
	<-a.done
	if n := into.count(); n > closed && !isDead {
		return fmt.Errorf("%d connections are taken from a living predecessor that has closed %d", n, closed)
	}
	return nil
}

// fuzzMove is the same for the predecessor.
func fuzzMove(t *testing.T, c *scm.Conn, p *puppet, leaves bool) error {
	s := moving(t)
	defer s.close()
	m := &mover{conn: c, limit: patient, more: make(chan struct{}, 1)}
	defer m.close()
	// Nobody waits for an answer for long. What this side says has its time: it must not be late by chance.
	impatient := time.NewTicker(20 * time.Millisecond)
	defer impatient.Stop()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-impatient.C:
				_ = c.SetReadDeadline(past)
			case <-ended:
				return
			}
		}
	}()
	if m.open(m.limit) != nil {
		return nil
	}
	for _, batch := range [][]*conn{s.conns[:2], s.conns[2:]} {
		err := m.move(batch)
		moved := batch[0].halt.moved
		for _, c := range batch {
			switch {
			case c.halt.moved != moved:
				return errors.New("a part of a batch has moved")
			case !moved && c.halt.stopped:
				return errors.New("a connection neither moves nor goes on")
			}
		}
		switch {
		case err == nil && !moved:
			return errors.New("nothing has moved")
		case err == nil && !p.said[frameAck].Load():
			return errors.New("connections have moved that nobody has acknowledged")
		case err != nil && moved:
			return fmt.Errorf("connections are lost, and the successor reads what it is sent: %w", err)
		case err != nil && !leaves:
			for end := time.Now().Add(30 * time.Second); !p.kinds[frameAbort].Load(); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					return fmt.Errorf("a batch is taken back, and the successor is not told: %w", err)
				}
			}
		}
		if err != nil {
			return nil
		}
	}
	return nil
}
