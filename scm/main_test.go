//go:build linux

package scm_test

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestMain(m *testing.M) { testutil.Main(m) }

var styles = []socketpair.Style{socketpair.Stream, socketpair.Datagram, socketpair.SeqPacket}

// eachConn runs test over a pair of every style, outside the poller and in it.
func eachConn(t *testing.T, test func(t *testing.T, a, b *scm.Conn)) {
	t.Helper()
	eachConnOf(t, styles, test)
}

func eachConnOf(t *testing.T, styles []socketpair.Style, test func(t *testing.T, a, b *scm.Conn)) {
	t.Helper()
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			t.Run("lazy", func(t *testing.T) {
				testutil.NoLeaks(t)
				a, b, err := scm.Pair(style)
				if err != nil {
					t.Fatal(err)
				}
				closeAtEnd(t, a, b)
				test(t, a, b)
			})
			t.Run("poller", func(t *testing.T) {
				testutil.NoLeaks(t)
				a, b := polled(t, style)
				test(t, a, b)
			})
		})
	}
}

func polled(t testing.TB, style socketpair.Style) (a, b *scm.Conn) {
	t.Helper()
	x, y, err := socketpair.New(style)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = scm.NewConn(x); err != nil {
		t.Fatal(err)
	}
	if b, err = scm.NewConn(y); err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, a, b)
	return a, b
}

func closeAtEnd(t testing.TB, conns ...*scm.Conn) {
	t.Cleanup(func() {
		for _, c := range conns {
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
}

// files opens n different files and closes them at the end of the test.
func files(t testing.TB, n int) []*os.File {
	t.Helper()
	f := make([]*os.File, n)
	for i := range f {
		fd, err := unix.MemfdCreate("fdkit", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f[i] = os.NewFile(uintptr(fd), "memfd")
		t.Cleanup(func() { f[i].Close() })
	}
	return f
}

// numbers are the descriptor numbers of files, which must stay open.
func numbers(files []*os.File) []int {
	n := make([]int, len(files))
	for i, f := range files {
		n[i] = -1
		_ = sysfd.Control(f, func(fd int) error {
			n[i] = fd
			return nil
		})
	}
	return n
}

// fill makes c's socket full, behind the Conn's back, and returns how many messages that took.
func fill(t testing.TB, c *scm.Conn) (messages int) {
	t.Helper()
	p := make([]byte, 1000)
	err := sysfd.Control(c, func(fd int) error {
		for {
			if err := unix.Sendmsg(fd, p, nil, nil, unix.MSG_DONTWAIT); err != nil {
				return err
			}
			messages++
		}
	})
	if err != unix.EAGAIN {
		t.Fatalf("fill: %v", err)
	}
	return messages
}

// within fails the test if f has not returned after a minute, and returns its error.
func within(t testing.TB, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	return wait(t, what, done)
}

func wait(t testing.TB, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatalf("%s: still not back after a minute", what)
		return nil
	}
}

// queued returns how many bytes wait to be received.
func queued(t testing.TB, c *scm.Conn) (n int) {
	t.Helper()
	err := sysfd.Control(c, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func listener(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func flags(t testing.TB, fd, get int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), get, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
