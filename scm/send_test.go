//go:build linux

package scm_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// send is Send, SendFDs or SendBatch, which make the same promises. The files must stay open.
type send func(c *scm.Conn, p []byte, files []*os.File) error

var sendTiers = map[string]send{
	"Send": func(c *scm.Conn, p []byte, files []*os.File) error {
		conns := make([]syscall.Conn, len(files))
		for i, f := range files {
			conns[i] = f
		}
		return c.Send(p, conns...)
	},
	"SendFDs": func(c *scm.Conn, p []byte, files []*os.File) error {
		return c.SendFDs(p, numbers(files))
	},
	"SendBatch": func(c *scm.Conn, p []byte, files []*os.File) error {
		n, err := c.SendBatch([]scm.Packet{{Data: p, FDs: numbers(files)}})
		if (n == 1) != (err == nil) {
			return fmt.Errorf("%d sent and %w", n, err)
		}
		return err
	},
}

func eachSend(t *testing.T, styles []socketpair.Style, test func(t *testing.T, a, b *scm.Conn, send send)) {
	t.Helper()
	for name, send := range sendTiers {
		t.Run(name, func(t *testing.T) {
			eachConnOf(t, styles, func(t *testing.T, a, b *scm.Conn) { test(t, a, b, send) })
		})
	}
}

// mustBeEmpty checks that nothing waits to be received.
func mustBeEmpty(t *testing.T, c *scm.Conn) {
	t.Helper()
	err := sysfd.Control(c, func(fd int) error {
		_, _, err := unix.Recvfrom(fd, make([]byte, 10), unix.MSG_DONTWAIT)
		return err
	})
	if err != unix.EAGAIN {
		t.Errorf("something was sent: %v", err)
	}
}

func TestSendTooMany(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		f := files(t, 254)
		err := send(a, []byte("x"), f)
		if !errors.Is(err, scm.ErrTooManyFiles) || !strings.Contains(err.Error(), "254") {
			t.Errorf("254 descriptors: %v", err)
		}
		mustBeEmpty(t, b)
		mustPass(t, a, b)
	})
}

func TestSendEmpty(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		f := files(t, 1)
		if a.Style() == socketpair.Stream { // the kernel would drop the descriptor without a word
			if err := send(a, nil, f); !errors.Is(err, scm.ErrEmpty) {
				t.Errorf("with a descriptor: %v", err)
			}
		}
		if a.Style() != socketpair.Datagram { // it would look like the end
			if err := send(a, nil, nil); !errors.Is(err, scm.ErrEmpty) {
				t.Errorf("without a descriptor: %v", err)
			}
		}
		mustBeEmpty(t, b)
		mustPass(t, a, b)
	})
}

func TestSendClosed(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		f := files(t, 3)
		f[2].Close()
		err := send(a, []byte("x"), f)
		if !errors.Is(err, scm.ErrNotSendable) || !(errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF)) {
			t.Errorf("a closed file: %v", err)
		}
		if !strings.Contains(fmt.Sprint(err), "descriptor 2") {
			t.Errorf("%q does not say which", err)
		}
		mustBeEmpty(t, b)
		mustPass(t, a, b)
	})
}

func TestSendBadNumber(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		good := numbers(files(t, 1))[0]
		for _, bad := range []int{-1, -100, 1 << 20} {
			err := a.SendFDs([]byte("x"), []int{good, bad})
			if !errors.Is(err, scm.ErrNotSendable) || !errors.Is(err, unix.EBADF) {
				t.Errorf("%d: %v", bad, err)
			}
			if want := fmt.Sprintf("descriptor 1, number %d", bad); !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		for _, bad := range []syscall.Conn{nil, (*os.File)(nil)} {
			if err := a.Send([]byte("x"), files(t, 1)[0], bad); !errors.Is(err, scm.ErrNotSendable) {
				t.Errorf("%T: %v", bad, err)
			}
		}
		mustBeEmpty(t, b)
	})
}

func TestSendRing(t *testing.T) {
	testutil.Need(t, testutil.IOURing)
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		fd, err := testutil.IOURingSetup()
		if err != nil {
			t.Fatal(err)
		}
		ring := os.NewFile(uintptr(fd), "io_uring")
		defer ring.Close()
		err = send(a, []byte("x"), []*os.File{files(t, 1)[0], ring})
		if !errors.Is(err, scm.ErrNotSendable) || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "descriptor 1,") || !strings.Contains(err.Error(), "io_uring") {
			t.Errorf("io_uring: %v", err)
		}
		mustBeEmpty(t, b)
		mustPass(t, a, b)
	})
}

func TestSendRefused(t *testing.T) {
	testutil.Need(t, testutil.PassRights)
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		f := files(t, 1)
		if err := send(a, []byte("before"), f); err != nil {
			t.Fatal(err)
		}
		if err := b.SetPassRights(false); err != nil {
			t.Fatal(err)
		}
		m, err := b.Receive(make([]byte, 10), 1)
		if err != nil || m.Files.Len() != 1 {
			t.Errorf("what was sent before: %d descriptors, %v", m.Files.Len(), err)
		}
		m.Close()
		if err := send(a, []byte("x"), f); !errors.Is(err, scm.ErrRefused) || !errors.Is(err, unix.EPERM) {
			t.Errorf("refused: %v", err)
		}
		mustBeEmpty(t, b)
		if err := send(a, []byte("x"), nil); err != nil {
			t.Errorf("without descriptors: %v", err)
		}
		if m, err := b.Receive(make([]byte, 10), 0); err != nil || string(m.Data) != "x" {
			t.Errorf("without descriptors: %v", err)
		}
		mustPass(t, b, a) // the other direction
		if err := b.SetPassRights(true); err != nil {
			t.Fatal(err)
		}
		mustPass(t, a, b)
	})
}

func TestSendTooLong(t *testing.T) {
	eachSend(t, styles[1:], func(t *testing.T, a, b *scm.Conn, send send) {
		err := send(a, make([]byte, 8<<20), files(t, 1))
		if !errors.Is(err, scm.ErrTooLong) || !strings.Contains(err.Error(), "8388608 bytes") {
			t.Errorf("8 MiB: %v", err)
		}
		mustBeEmpty(t, b)
		mustPass(t, a, b)
	})
}

func TestSendToClosed(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		b.Close()
		for range 3 { // the errno changes from call to call
			if err := send(a, []byte("x"), files(t, 1)); !errors.Is(err, scm.ErrPeerGone) {
				t.Errorf("%v", err)
			}
		}
	})
}

// The descriptors of messages that nobody will receive are released.
func TestSendThenClosed(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		if err := send(a, []byte("x"), files(t, 2)); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if err := send(a, []byte("x"), files(t, 1)); !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("%v", err)
		}
	})
}

// A socket in its own queue would keep itself alive.
func TestSendOverItself(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		var dup *os.File
		_ = sysfd.Control(a, func(fd int) error {
			d, err := sysfd.Dup(fd)
			dup = os.NewFile(uintptr(d), "dup")
			return err
		})
		defer dup.Close()
		for _, self := range []syscall.Conn{a, dup} {
			if err := a.Send([]byte("x"), files(t, 1)[0], self); !errors.Is(err, scm.ErrNotSendable) || !strings.Contains(err.Error(), "descriptor 1") {
				t.Errorf("%T: %v", self, err)
			}
		}
		if a.NetConn() != nil {
			if err := a.Send([]byte("x"), a.NetConn()); !errors.Is(err, scm.ErrNotSendable) {
				t.Errorf("NetConn: %v", err)
			}
		}
		own := -1
		_ = sysfd.Control(a, func(fd int) error { own = fd; return nil })
		for name, send := range map[string]func() error{
			"SendFDs":   func() error { return a.SendFDs([]byte("x"), []int{own}) },
			"SendBatch": func() error { _, err := a.SendBatch([]scm.Packet{{Data: []byte("x"), FDs: []int{own}}}); return err },
		} {
			if err := send(); !errors.Is(err, scm.ErrNotSendable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		mustBeEmpty(t, b)
		mustPass(t, a, b)
	})
}

// Sending must not change the mode of what is sent: O_NONBLOCK belongs to the open file description
// and everybody who has it. A listener that turns blocking ignores its deadline and hangs in Close.
func TestSendKeepsNonblocking(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		ln := listener(t)
		if err := a.Send([]byte("x"), ln); err != nil {
			t.Fatal(err)
		}
		m, err := b.Receive(make([]byte, 10), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		got, err := m.Files.TakeListener(0)
		if err != nil {
			t.Fatal(err)
		}
		got.Close()
		_ = sysfd.Control(ln, func(fd int) error {
			if flags(t, fd, unix.F_GETFL)&unix.O_NONBLOCK == 0 {
				t.Error("the listener is blocking now")
			}
			return nil
		})
		_ = ln.SetDeadline(time.Now().Add(time.Millisecond))
		if err := within(t, "accept", func() error { _, err := ln.Accept(); return err }); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("accept: %v", err)
		}
	})
}

func TestSendUnblocks(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		fill(t, a)
		f := files(t, 2)
		put := func() error { return send(a, []byte("x"), f) }
		if err := a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := within(t, "deadline", put); err != os.ErrDeadlineExceeded {
			t.Errorf("deadline: %v", err)
		}
		if err := within(t, "deadline in the past", put); err != os.ErrDeadlineExceeded {
			t.Errorf("deadline in the past: %v", err)
		}
		if err := a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		const waiting = 3
		done := make(chan error, waiting)
		for range waiting {
			go func() { done <- put() }()
		}
		a.Close()
		for range waiting {
			if err := wait(t, "close", done); err != net.ErrClosed {
				t.Errorf("close: %v", err)
			}
		}
		if err := put(); err != net.ErrClosed {
			t.Errorf("after the close: %v", err)
		}
	})
}

// A peer that goes while a Send waits wakes it, and the descriptors are released.
func TestSendUnblocksWhenPeerGoes(t *testing.T) {
	eachSend(t, styles, func(t *testing.T, a, b *scm.Conn, send send) {
		fill(t, a)
		f := files(t, 2)
		done := make(chan error, 1)
		go func() { done <- send(a, []byte("x"), f) }()
		b.Close()
		if err := wait(t, "send", done); !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("%v", err)
		}
	})
}

// The owner of a listener closes it while a Send of it waits for a stalled peer. Close must not wait
// for the peer, and the listener still arrives.
func TestSendDoesNotHoldUpClose(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		messages := fill(t, a)
		ln := listener(t)
		t.Cleanup(func() { a.Close() }) // or the end of the test would wait for ln
		open := testutil.Count(t)
		done := make(chan error, 1)
		go func() { done <- a.Send([]byte("listener"), ln) }()
		testutil.Eventually(t, "the duplicate that Send waits with", func() bool { return testutil.Count(t) == open+1 })
		if err := within(t, "Close of the listener", ln.Close); err != nil {
			t.Error(err)
		}
		p := make([]byte, 1000)
		for range messages {
			if _, err := b.Receive(p, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := wait(t, "send", done); err != nil {
			t.Fatal(err)
		}
		var m scm.Message
		for m.Files.Len() == 0 { // a stream may have cut the messages otherwise
			var err error
			if m, err = b.Receive(p, 1); err != nil {
				t.Fatal(err)
			}
		}
		defer m.Close()
		got, err := m.Files.TakeListener(0)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if got.Addr().String() != ln.Addr().String() {
			t.Errorf("%v arrived, %v was sent", got.Addr(), ln.Addr())
		}
	})
}

// A Send that has to wait needs duplicates; with a full table it says so and does not wait.
func TestSendWithFullTable(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		fill(t, a)
		f := files(t, 2)
		empty := testutil.FillTable(t, 1)
		err := within(t, "send", func() error { return a.Send([]byte("x"), f[0], f[1]) })
		limit := sysfd.Limit()
		empty()
		if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
			t.Errorf("%v", err)
		}
	})
}

// A stream takes a long message in pieces. The descriptor goes with the first byte, once, and no
// other message gets in between.
func TestSendLongOverStream(t *testing.T) {
	eachSend(t, styles[:1], func(t *testing.T, a, b *scm.Conn, send send) {
		const senders, size = 3, 1 << 20
		messages := make([][]byte, senders)
		done := make(chan error, senders)
		for i := range messages {
			messages[i] = make([]byte, size)
			_, _ = rand.Read(messages[i])
			messages[i][0] = byte(i)
			f := files(t, 2)
			go func() { done <- send(a, messages[i], f) }()
		}
		p := make([]byte, 100000)
		for range senders {
			var got []byte
			for len(got) < size {
				m, err := b.Receive(p[:min(len(p), size-len(got))], 2)
				if err != nil {
					t.Fatal(err)
				}
				if want := 0; len(got) == 0 {
					want = 2
					if m.Files.Len() != want {
						t.Errorf("%d descriptors with the first byte", m.Files.Len())
					}
				} else if m.Files.Len() != want {
					t.Errorf("%d descriptors after byte %d", m.Files.Len(), len(got))
				}
				got = append(got, m.Data...)
				m.Close()
			}
			if int(got[0]) >= senders || !bytes.Equal(got, messages[got[0]]) {
				t.Error("messages mixed")
			}
		}
		for range senders {
			if err := wait(t, "send", done); err != nil {
				t.Error(err)
			}
		}
		mustPass(t, a, b)
	})
}

// A message that was sent in part when the deadline passed: nothing that follows would be understood.
func TestSendCutOff(t *testing.T) {
	eachSend(t, styles[:1], func(t *testing.T, a, b *scm.Conn, send send) {
		f := files(t, 1)
		done := make(chan error, 1)
		go func() { done <- send(a, make([]byte, 4<<20), f) }()
		testutil.Eventually(t, "the first part was sent", func() bool { return queued(t, b) > 0 })
		if err := a.SetWriteDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		err := wait(t, "send", done)
		if !errors.Is(err, scm.ErrBroken) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("cut off: %v", err)
		}
		if err := a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		for name, again := range sendTiers {
			if err := again(a, []byte("x"), nil); !errors.Is(err, scm.ErrBroken) {
				t.Errorf("%s after that: %v", name, err)
			}
		}
		mustPass(t, b, a) // the other direction
		m, err := b.Receive(make([]byte, 10), 1)
		if err != nil || m.Files.Len() != 1 {
			t.Errorf("the part that was sent: %d descriptors, %v", m.Files.Len(), err)
		}
		m.Close()
	})
}

// The limit of descriptors in flight counts per user and binds those without privileges.
var inFlight = testutil.NewHelper("in flight", func(args []string) error {
	ofRoot := len(args) > 1
	if ofRoot && os.Geteuid() != 0 {
		return errors.New("not root")
	}
	const limit = 64
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	style := map[string]socketpair.Style{"SOCK_STREAM": socketpair.Stream, "SOCK_DGRAM": socketpair.Datagram, "SOCK_SEQPACKET": socketpair.SeqPacket}[args[0]]
	a, b, err := scm.Pair(style)
	if err != nil {
		return err
	}
	sent := 0
	for sent < 1000 {
		if err = a.SendFDs([]byte("x"), []int{0}); err != nil {
			break
		}
		sent++
	}
	if !errors.Is(err, scm.ErrInFlight) || !errors.Is(err, unix.ETOOMANYREFS) || !strings.Contains(err.Error(), "64") {
		return fmt.Errorf("after %d: %v", sent, err)
	}
	if err := a.SendFDs([]byte("y"), nil); err != nil {
		return fmt.Errorf("without descriptors: %v", err)
	}
	if ofRoot {
		return nil // what else root has in flight on this machine, nobody knows
	}
	for range min(sent, 10) {
		m, err := b.Receive(make([]byte, 1), 1)
		if err != nil {
			return err
		}
		m.Close()
	}
	// Other tests of the same user may have some in flight too, which are received one day.
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		if err = a.SendFDs([]byte("x"), []int{0}); !errors.Is(err, scm.ErrInFlight) || time.Now().After(end) {
			return err
		}
	}
})

func TestSendInFlight(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			cmd := inFlight.Command(t, style.String())
			if os.Geteuid() == 0 {
				cmd = inFlight.CommandAs(t, 4200, 4200, nil, style.String())
			}
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Many goroutines use one Conn at once: no message is lost, doubled or mixed.
func TestConcurrent(t *testing.T) {
	eachConnOf(t, []socketpair.Style{socketpair.Datagram, socketpair.SeqPacket}, func(t *testing.T, a, b *scm.Conn) {
		const goroutines, each = 4, 200
		f := files(t, 1)[0]
		var wg sync.WaitGroup
		for i := range goroutines {
			wg.Go(func() {
				for j := range each {
					if err := a.Send(fmt.Appendf(nil, "%d %d", i, j), f); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var mu sync.Mutex
		seen := map[string]int{}
		for range goroutines {
			wg.Go(func() {
				p := make([]byte, 20)
				for range each {
					m, err := b.Receive(p, 1)
					if err != nil || m.Files.Len() != 1 {
						t.Errorf("%d descriptors, %v", m.Files.Len(), err)
						return
					}
					mu.Lock()
					seen[string(m.Data)]++
					mu.Unlock()
					m.Close()
				}
			})
		}
		wg.Wait()
		if len(seen) != goroutines*each {
			t.Errorf("%d different messages of %d arrived", len(seen), goroutines*each)
		}
	})
}
