//go:build linux

package scm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// receive is Receive or ReceiveFDs, which make the same promises.
type receive func(c *scm.Conn, p []byte, maxFiles int) (n int, fds []int, err error)

var tiers = map[string]receive{
	"Receive": func(c *scm.Conn, p []byte, maxFiles int) (int, []int, error) {
		m, err := c.Receive(p, maxFiles)
		var fds []int
		for i := range m.Files.Len() {
			fds = append(fds, m.Files.TakeFD(i))
		}
		if cerr := m.Close(); cerr != nil {
			return 0, nil, cerr
		}
		return len(m.Data), fds, err
	},
	"ReceiveFDs": func(c *scm.Conn, p []byte, maxFiles int) (int, []int, error) {
		fds := make([]int, maxFiles)
		n, nfds, err := c.ReceiveFDs(p, fds)
		return n, fds[:nfds], err
	},
	"ReceiveBatch": func(c *scm.Conn, p []byte, maxFiles int) (int, []int, error) {
		packet := []scm.Packet{{Data: p, FDs: make([]int, maxFiles)}}
		n, err := c.ReceiveBatch(packet)
		if n == 0 {
			return 0, nil, err
		}
		return packet[0].N, packet[0].FDs[:packet[0].NFDs], packet[0].Err
	},
}

func eachTier(t *testing.T, styles []socketpair.Style, test func(t *testing.T, a, b *scm.Conn, receive receive)) {
	t.Helper()
	for name, receive := range tiers {
		t.Run(name, func(t *testing.T) {
			eachConnOf(t, styles, func(t *testing.T, a, b *scm.Conn) { test(t, a, b, receive) })
		})
	}
}

func TestReceiveKeepsOrderAndIdentity(t *testing.T) {
	eachTier(t, styles, func(t *testing.T, a, b *scm.Conn, receive receive) {
		for _, n := range []int{0, 1, 2, 3, 16, 17, 253} {
			sent := numbers(files(t, n))
			if err := a.SendFDs([]byte("hello"), sent); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 100)
			size, got, err := receive(b, p, n)
			if err != nil || string(p[:size]) != "hello" || len(got) != n {
				t.Fatalf("received %q, %d descriptors, %v; sent %d", p[:size], len(got), err, n)
			}
			for i, fd := range got {
				if !testutil.SameFile(t, fd, sent[i]) {
					t.Errorf("descriptor %d of %d is another file", i, n)
				}
				if flags(t, fd, unix.F_GETFD)&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor %d of %d is not close-on-exec", i, n)
				}
			}
			sysfd.CloseAll(got)
		}
	})
}

// The kernel rounds the room for descriptors up, so one too many may be installed. Odd and even
// counts differ.
func TestReceiveTooMany(t *testing.T) {
	eachTier(t, styles, func(t *testing.T, a, b *scm.Conn, receive receive) {
		for _, n := range []int{1, 2, 3, 4, 5, 6, 17, 252, 253} {
			for _, asked := range []int{0, n - 1} {
				open := testutil.Count(t)
				sent := files(t, n)
				if err := a.SendFDs([]byte("hello"), numbers(sent)); err != nil {
					t.Fatal(err)
				}
				_, got, err := receive(b, make([]byte, 100), asked)
				if !errors.Is(err, scm.ErrTooManyFiles) || len(got) != 0 {
					t.Fatalf("%d for %d: %d descriptors, %v", n, asked, len(got), err)
				}
				if want := fmt.Sprintf("%d came, %d were asked for", n, asked); !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
				for _, f := range sent {
					f.Close()
				}
				testutil.Eventually(t, fmt.Sprintf("what came of %d for %d is closed", n, asked), func() bool { return testutil.Count(t) == open })
			}
		}
		mustPass(t, a, b) // the next message is not affected
	})
}

// mustPass checks that the connection still works.
func mustPass(t *testing.T, a, b *scm.Conn) {
	t.Helper()
	f := files(t, 1)
	if err := a.Send([]byte("still"), f[0]); err != nil {
		t.Fatalf("the connection does not work any more: %v", err)
	}
	m, err := b.Receive(make([]byte, 100), 1)
	if err != nil || string(m.Data) != "still" || m.Files.Len() != 1 {
		t.Fatalf("the connection does not work any more: %q, %d descriptors, %v", m.Data, m.Files.Len(), err)
	}
	m.Close()
}

func TestReceiveTooLong(t *testing.T) {
	eachTier(t, styles, func(t *testing.T, a, b *scm.Conn, receive receive) {
		open := testutil.Count(t)
		if err := a.Send([]byte("hello"), files(t, 1)[0]); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 3)
		n, got, err := receive(b, p, 1)
		if b.Style() != socketpair.Stream {
			if !errors.Is(err, scm.ErrTruncated) || len(got) != 0 || !strings.Contains(err.Error(), "5 bytes for 3") && !strings.Contains(err.Error(), "more than 3 bytes") {
				t.Errorf("%d descriptors, %v", len(got), err)
			}
			testutil.Eventually(t, "all but the file that was sent is closed", func() bool { return testutil.Count(t) == open+1 })
			mustPass(t, a, b)
			return
		}
		// A stream has no boundary: the descriptor comes with the first byte, the rest follows.
		if err != nil || string(p[:n]) != "hel" || len(got) != 1 {
			t.Errorf("%q, %d descriptors, %v", p[:n], len(got), err)
		}
		sysfd.CloseAll(got)
		n, got, err = receive(b, p, 1)
		if err != nil || string(p[:n]) != "lo" || len(got) != 0 {
			t.Errorf("%q, %d descriptors, %v", p[:n], len(got), err)
		}
	})
}

// ReadMsgUnix calls such a packet io.EOF and leaks its descriptors.
func TestReceiveEmptyPacketWithDescriptors(t *testing.T) {
	eachTier(t, styles[1:], func(t *testing.T, a, b *scm.Conn, receive receive) {
		if err := a.Send(nil, files(t, 1)[0]); err != nil {
			t.Fatal(err)
		}
		n, got, err := receive(b, make([]byte, 10), 1)
		if err != nil || n != 0 || len(got) != 1 {
			t.Errorf("%d bytes, %d descriptors, %v", n, len(got), err)
		}
		sysfd.CloseAll(got)

		if err := a.Send(nil, files(t, 1)[0]); err != nil {
			t.Fatal(err)
		}
		if _, _, err := receive(b, make([]byte, 10), 0); !errors.Is(err, scm.ErrTooManyFiles) {
			t.Errorf("empty packet with a descriptor that was not asked for: %v", err)
		}
	})
}

// An empty packet without descriptors is not the end, whether or not the kernel stamps it, and also
// when the sender has closed by now but more is queued; but for one that is not stamped, see TestReceiveBeforeEnd.
func TestReceiveEmptyPacket(t *testing.T) {
	for _, stamped := range []bool{false, true} {
		t.Run(fmt.Sprintf("stamped=%v", stamped), func(t *testing.T) {
			eachTier(t, styles[1:], func(t *testing.T, a, b *scm.Conn, receive receive) {
				if err := b.SetPassCred(stamped); err != nil {
					t.Fatal(err)
				}
				empty := func() {
					if err := sysfd.Control(a, func(fd int) error { return unix.Sendmsg(fd, nil, nil, nil, 0) }); err != nil {
						t.Fatal(err)
					}
				}
				told := 2
				if b.Style() == socketpair.SeqPacket && !stamped {
					told = 1
				}
				empty()
				if n, _, err := receive(b, make([]byte, 10), 0); n != 0 || err != nil {
					t.Errorf("empty packet: %d bytes, %v", n, err)
				}
				empty()
				empty()
				if err := a.Send([]byte("x")); err != nil {
					t.Fatal(err)
				}
				a.Close()
				for range told {
					if n, _, err := receive(b, make([]byte, 10), 0); n != 0 || err != nil {
						t.Errorf("empty packet before another: %d bytes, %v", n, err)
					}
				}
				if n, _, err := receive(b, make([]byte, 10), 0); n != 1 || err != nil {
					t.Errorf("the one behind it: %d bytes, %v", n, err)
				}
			})
		})
	}
}

// What is sent right before the end is neither lost nor taken for something else.
func TestReceiveBeforeEnd(t *testing.T) {
	for name, receive := range tiers {
		t.Run(name, func(t *testing.T) {
			beforeEnd(t, func(c *scm.Conn) (int, error) {
				n, fds, err := receive(c, make([]byte, 10), 1)
				if n > 0 && len(fds) != 1 {
					t.Errorf("%d descriptors", len(fds))
				}
				sysfd.CloseAll(fds)
				return n, err
			})
		})
	}
}

func beforeEnd(t *testing.T, receive func(*scm.Conn) (int, error)) {
	for _, stamped := range []bool{false, true} {
		t.Run(fmt.Sprintf("stamped=%v", stamped), func(t *testing.T) {
			testutil.NoLeaks(t)
			rights := unix.UnixRights(int(files(t, 1)[0].Fd()))
			send := func(fd int) error { return unix.Sendmsg(fd, []byte("ab"), rights, nil, 0) }
			testutil.Ending(t, time.Microsecond, send, func() (io.Closer, func()) {
				a, b, err := scm.Pair(socketpair.SeqPacket)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(b.SetPassCred(stamped), sysfd.Control(a, send)); err != nil {
					t.Fatal(err)
				}
				if n, err := receive(b); n != 2 || err != nil { // it makes its buffers
					t.Errorf("the first message: %d bytes, %v", n, err)
				}
				return a, func() {
					if n, err := receive(b); n != 2 || err != nil {
						t.Errorf("the last message: %d bytes, %v", n, err)
					}
					if n, err := receive(b); n != 0 || err != io.EOF {
						t.Errorf("the end: %d bytes, %v", n, err)
					}
					b.Close()
				}
			})
		})
	}
}

func TestReceiveAtEnd(t *testing.T) {
	for _, stamped := range []bool{false, true} {
		t.Run(fmt.Sprintf("stamped=%v", stamped), func(t *testing.T) {
			eachTier(t, []socketpair.Style{socketpair.Stream, socketpair.SeqPacket}, func(t *testing.T, a, b *scm.Conn, receive receive) {
				// With SO_PASSCRED the end of a stream carries credentials {0,0,0}.
				if err := b.SetPassCred(stamped); err != nil {
					t.Fatal(err)
				}
				if err := a.Send([]byte("last"), files(t, 1)[0]); err != nil {
					t.Fatal(err)
				}
				a.Close()
				n, got, err := receive(b, make([]byte, 10), 1)
				if err != nil || n != 4 || len(got) != 1 {
					t.Fatalf("the last message: %d bytes, %d descriptors, %v", n, len(got), err)
				}
				sysfd.CloseAll(got)
				for range 2 {
					if _, _, err := receive(b, make([]byte, 10), 1); err != io.EOF {
						t.Errorf("want a bare io.EOF, got %v", err)
					}
				}
			})
		})
	}
}

// A peer that closes with unread messages resets the connection. SOCK_SEQPACKET reports that before
// the packets that are queued here; a reader that stops there loses them.
func TestReceiveBehindReset(t *testing.T) {
	eachTier(t, []socketpair.Style{socketpair.Stream, socketpair.SeqPacket}, func(t *testing.T, a, b *scm.Conn, receive receive) {
		if err := b.Send([]byte("never read")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := a.Send([]byte("queued"), files(t, 1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		a.Close()
		for i := range 2 {
			n, got, err := receive(b, make([]byte, 10), 1)
			if err != nil || n != 6 || len(got) != 1 {
				t.Fatalf("queued message %d: %d bytes, %d descriptors, %v", i, n, len(got), err)
			}
			sysfd.CloseAll(got)
		}
		if _, _, err := receive(b, make([]byte, 10), 1); !errors.Is(err, scm.ErrPeerGone) || !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("behind the queue: %v", err)
		}
		if _, _, err := receive(b, make([]byte, 10), 1); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	})
}

// A send to a dead datagram peer makes the kernel drop what is unread here. No call can save it,
// but none may wait for it either.
func TestReceiveAfterDatagramPeerWasGone(t *testing.T) {
	eachTier(t, []socketpair.Style{socketpair.Datagram}, func(t *testing.T, a, b *scm.Conn, receive receive) {
		for range 2 {
			if err := a.Send([]byte("queued"), files(t, 1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		a.Close()
		n, got, err := receive(b, make([]byte, 10), 1)
		if err != nil || n != 6 || len(got) != 1 {
			t.Fatalf("received before the send: %d bytes, %d descriptors, %v", n, len(got), err)
		}
		sysfd.CloseAll(got)
		for range 2 { // ECONNREFUSED, then ENOTCONN
			if err := b.Send([]byte("x")); !errors.Is(err, scm.ErrPeerGone) {
				t.Errorf("send: %v", err)
			}
		}
		err = within(t, "receive", func() error {
			_, _, err := receive(b, make([]byte, 10), 1)
			return err
		})
		if !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("receive: %v", err)
		}
	})
}

func TestReceiveWithFullTable(t *testing.T) {
	for _, free := range []int{0, 1, 2, 4} {
		t.Run(fmt.Sprintf("free=%d", free), func(t *testing.T) {
			eachTier(t, styles, func(t *testing.T, a, b *scm.Conn, receive receive) {
				sent := numbers(files(t, 5))
				if err := a.SendFDs([]byte("hello"), sent); err != nil {
					t.Fatal(err)
				}
				empty := testutil.FillTable(t, free)
				_, got, err := receive(b, make([]byte, 10), 5)
				limit := sysfd.Limit()
				empty()
				if !errors.Is(err, scm.ErrFilesLost) || !errors.Is(err, unix.EMFILE) || len(got) != 0 {
					t.Fatalf("%d descriptors, %v", len(got), err)
				}
				for _, want := range []string{fmt.Sprintf("%d arrived", free), fmt.Sprintf("RLIMIT_NOFILE is %d", limit)} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q does not say %q", err, want)
					}
				}
				mustPass(t, a, b)
			})
		})
	}
}

func TestReceiveUnblocks(t *testing.T) {
	eachTier(t, styles, func(t *testing.T, a, b *scm.Conn, receive receive) {
		get := func() error {
			_, _, err := receive(b, make([]byte, 10), 1)
			return err
		}
		if err := b.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := within(t, "deadline in the past", get); err != os.ErrDeadlineExceeded {
			t.Errorf("deadline in the past: %v", err)
		}
		if err := b.SetDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := within(t, "deadline", get); err != os.ErrDeadlineExceeded {
			t.Errorf("deadline: %v", err)
		}
		if err := b.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		mustPass(t, a, b)

		const waiting = 3
		done := make(chan error, waiting)
		for range waiting {
			go func() { done <- get() }()
		}
		b.Close()
		for range waiting {
			if err := wait(t, "close", done); err != net.ErrClosed {
				t.Errorf("close: %v", err)
			}
		}
		if err := get(); err != net.ErrClosed {
			t.Errorf("after the close: %v", err)
		}
	})
}

// Close with several waiting in the poller for certain, not only on their way there.
func TestReceiveUnblocksFromPoller(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		raw, err := b.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		inPoller := make(chan bool, 10)
		done := make(chan error, 1)
		go func() {
			done <- raw.Read(func(uintptr) bool {
				inPoller <- true
				return false
			})
		}()
		<-inPoller
		b.Close()
		if err := wait(t, "close", done); err == nil {
			t.Error("a closed connection was readable")
		}
	})
}

func TestReceiveEmptyBuffer(t *testing.T) {
	eachTier(t, styles, func(t *testing.T, a, b *scm.Conn, receive receive) {
		if err := a.Send([]byte("x"), files(t, 1)[0]); err != nil {
			t.Fatal(err)
		}
		// On a stream recvmsg(2) would take the descriptors and leave the byte.
		if _, _, err := receive(b, nil, 1); !errors.Is(err, scm.ErrTruncated) {
			t.Errorf("empty buffer: %v", err)
		}
		if b.Style() == socketpair.Stream {
			n, got, err := receive(b, make([]byte, 10), 1)
			if n != 1 || len(got) != 1 || err != nil {
				t.Errorf("after that: %d bytes, %d descriptors, %v", n, len(got), err)
			}
			sysfd.CloseAll(got)
		}
	})
}

// Where a read of a stream stops: a message that carries descriptors ends it, one that does not is
// glued to the next.
func TestReceiveFromStream(t *testing.T) {
	eachTier(t, styles[:1], func(t *testing.T, a, b *scm.Conn, receive receive) {
		for _, m := range []struct {
			data string
			fds  int
		}{{"AAAA", 0}, {"BBBB", 1}, {"CCCC", 0}, {"DDDD", 2}, {"EEEE", 0}} {
			if err := a.SendFDs([]byte(m.data), numbers(files(t, m.fds))); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct {
			data string
			fds  int
		}{{"AAAABBBB", 1}, {"CCCCDDDD", 2}, {"EEEE", 0}} {
			p := make([]byte, 100)
			n, got, err := receive(b, p, 9)
			if string(p[:n]) != want.data || len(got) != want.fds || err != nil {
				t.Errorf("%q with %d, %v; want %q with %d", p[:n], len(got), err, want.data, want.fds)
			}
			sysfd.CloseAll(got)
		}
	})
}

// A peek with room for control messages installs descriptors each time. The package does not peek.
func TestNoPeek(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "_test.go") && bytes.Contains(source, []byte("MSG_PEEK")) {
			t.Errorf("%s uses MSG_PEEK", name)
		}
	}
}

// A process without standard descriptors gets 0, 1 and 2 from the kernel.
var withoutStdio = testutil.NewHelper("without stdio", func([]string) error {
	c, err := scm.Inherit(3)
	if err != nil {
		return err
	}
	defer c.Close()
	for fd := range 3 {
		_ = unix.Close(fd)
	}
	m, err := c.Receive(make([]byte, 10), 5)
	if err != nil {
		return c.Send([]byte(err.Error()))
	}
	for i := range m.Files.Len() {
		if fd := m.Files.TakeFD(i); fd < 3 {
			return c.Send(fmt.Appendf(nil, "descriptor %d has number %d", i, fd))
		}
	}
	return c.Send([]byte("ok"))
})

func TestReceiveWithoutStdio(t *testing.T) {
	testutil.NoLeaks(t)
	parent, child, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	c, err := scm.NewConn(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cmd := withoutStdio.Command(t)
	cmd.ExtraFiles = []*os.File{child}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child.Close()
	if err := c.SendFDs([]byte("x"), numbers(files(t, 5))); err != nil {
		t.Fatal(err)
	}
	m, err := c.Receive(make([]byte, 1000), 0)
	if err != nil || string(m.Data) != "ok" {
		t.Errorf("%q, %v", m.Data, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// What nobody received dies with the socket.
func TestUnreadDescriptorsDieWithTheSocket(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := a.Send([]byte("x"), w); err != nil {
			t.Fatal(err)
		}
		w.Close()
		b.Close()
		if err := within(t, "end of the pipe", func() error {
			_, err := r.Read(make([]byte, 1))
			return err
		}); err != io.EOF {
			t.Errorf("the writing end lives on: %v", err)
		}
	})
}

// A Receive that waits already when a Send finds out that the datagram peer is gone does not wait on.
func TestReceiveIsToldThatDatagramPeerIsGone(t *testing.T) {
	eachTier(t, []socketpair.Style{socketpair.Datagram}, func(t *testing.T, a, b *scm.Conn, receive receive) {
		done := make(chan error, 1)
		go func() {
			_, _, err := receive(b, make([]byte, 10), 1)
			done <- err
		}()
		testutil.Eventually(t, "it waits", func() bool { return waitsIn("TestReceiveIsToldThatDatagramPeerIsGone") })
		a.Close()
		if err := b.Send([]byte("x")); !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("send: %v", err)
		}
		if err := wait(t, "receive", done); !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("receive: %v", err)
		}
	})
}

// waitsIn reports whether a goroutine that the function has started waits in the runtime's poller.
func waitsIn(function string) bool {
	all := make([]byte, 1<<20)
	for _, one := range strings.Split(string(all[:runtime.Stack(all, true)]), "\n\n") {
		head, _, _ := strings.Cut(one, "\n")
		if strings.Contains(head, "[IO wait") && strings.Contains(one, function+".") {
			return true
		}
	}
	return false
}

// A peer that passes a socket that lingers decides how long close(2) takes. It must not hold up the
// refusal, nor the Conn.
func TestReceiveRefusesLingering(t *testing.T) {
	testutil.NoLeaks(t)
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, a, b)
	lingers, peer, err := testutil.Linger()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SendFDs([]byte("x"), []int{lingers}); err != nil {
		t.Fatal(err)
	}
	// Our copy must not linger itself: it is closed while the message holds the socket.
	_ = unix.Close(lingers)
	start := time.Now()
	if _, err := b.Receive(make([]byte, 10), 0); !errors.Is(err, scm.ErrTooManyFiles) {
		t.Error(err)
	}
	if took := time.Since(start); took > 30*time.Second { // half of what it lingers
		t.Errorf("the refusal took %v", took)
	}
	_ = unix.Close(peer) // resets, and ends the lingering
}

// broker uses numbers only, so nothing has started the runtime's poller when its table is full. The
// runtime dies if it cannot start it; here it was started before the first descriptor could come.
var broker = testutil.NewHelper("broker", func([]string) error {
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		return err
	}
	fds := make([]int, 10)
	// Other tests of the same user may have more in flight than this limit, which are received one day.
	send := func() (err error) {
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
			if err = a.SendFDs([]byte("x"), []int{0}); !errors.Is(err, scm.ErrInFlight) || time.Now().After(end) {
				return err
			}
		}
	}
	for {
		if err := send(); err != nil {
			return err
		}
		if _, _, err := b.ReceiveFDs(make([]byte, 1), fds); errors.Is(err, scm.ErrFilesLost) {
			break
		} else if err != nil {
			return err
		}
	}
	time.AfterFunc(10*time.Millisecond, func() { b.Close() })
	if _, _, err := b.ReceiveFDs(make([]byte, 1), fds); err != net.ErrClosed {
		return fmt.Errorf("waiting with a full table: %w", err)
	}
	return nil
})

func TestReceiveWaitsWithFullTable(t *testing.T) {
	testutil.NoLeaks(t)
	if err := broker.Command(t).Run(); err != nil {
		t.Error(err)
	}
}
