//go:build linux

package socketpair_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

func TestMain(m *testing.M) { testutil.Main(m) }

var styles = []socketpair.Style{socketpair.Stream, socketpair.Datagram, socketpair.SeqPacket}

func eachStyle(t *testing.T, test func(t *testing.T, style socketpair.Style)) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			test(t, style)
		})
	}
}

func newPair(t testing.TB, style socketpair.Style) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := socketpair.New(style)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// TestConn is the conformance suite for stream connections.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		x, y, err := socketpair.New(socketpair.Stream)
		if err != nil {
			return nil, nil, nil, err
		}
		return x, y, func() {
			x.Close()
			y.Close()
		}, nil
	})
}

// Two descriptors and not four, as with a forgotten file of FileConn's.
func TestNewOpensTwo(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		before := testutil.Count(t)
		a, b := newPair(t, style)
		if now := testutil.Count(t); now != before+2 {
			t.Errorf("%d descriptors more", now-before)
		}
		for _, c := range []*net.UnixConn{a, b} {
			_ = sysfd.Control(c, func(fd int) error {
				if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
					t.Error("an end is not close-on-exec")
				}
				if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
					t.Error("an end is blocking")
				}
				if got, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); got != int(style) {
					t.Errorf("SO_TYPE is %d", got)
				}
				return nil
			})
		}
	})
}

func TestFullDuplex(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		a, b := newPair(t, style)
		for _, way := range [][2]*net.UnixConn{{a, b}, {b, a}} {
			if _, err := way[0].Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
		for _, end := range []*net.UnixConn{a, b} {
			p := make([]byte, 10)
			if n, err := end.Read(p); err != nil || string(p[:n]) != "hello" {
				t.Errorf("%q, %v", p[:n], err)
			}
		}
	})
}

// Closing one end gives the other the end at once; a descriptor that only the collector closes would
// keep it from coming.
func TestCloseIsSeenAtOnce(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		a, b := newPair(t, style)
		a.Close()
		if style == socketpair.Datagram { // has no end; a write tells
			if _, err := b.Write([]byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("write: %v", err)
			}
			return
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v", err)
		}
	})
}

func TestDeadline(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		a, _ := newPair(t, style)
		_ = a.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		_ = a.SetReadDeadline(time.Time{})
		done := make(chan error, 1)
		go func() {
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		a.Close()
		select {
		case err := <-done:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after close: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("close did not wake the read")
		}
	})
}

func TestFullTable(t *testing.T) {
	makers := map[string]func() error{
		"New": func() error {
			a, b, err := socketpair.New(socketpair.Stream)
			if err == nil {
				a.Close()
				b.Close()
			}
			return err
		},
		"ForChild": func() error {
			a, b, err := socketpair.ForChild(socketpair.SeqPacket)
			if err == nil {
				a.Close()
				b.Close()
			}
			return err
		},
		"Create": func() error {
			a, b, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err == nil {
				a.Close()
				b.Close()
			}
			return err
		},
	}
	for name, make := range makers {
		enough := 3 // for a moment
		if name == "Create" {
			enough = 2
		}
		for free := range enough + 1 {
			t.Run(fmt.Sprintf("%s/%d", name, free), func(t *testing.T) {
				testutil.NoLeaks(t)
				empty := testutil.FillTable(t, free)
				err := make()
				limit := sysfd.Limit()
				empty()
				switch {
				case free == enough && err != nil:
					t.Error(err)
				case free < enough && !errors.Is(err, unix.EMFILE):
					t.Errorf("no EMFILE: %v", err)
				case free < 2 && !strings.Contains(err.Error(), fmt.Sprintf("RLIMIT_NOFILE is %d", limit)):
					t.Errorf("%q does not name the limit", err)
				}
			})
		}
	}
}

// Every outcome of socketpair(2) that was seen on Linux. Which of the others a kernel has depends on
// how it was built, so their rows allow what a missing family says.
func TestCreate(t *testing.T) {
	const absent = unix.EAFNOSUPPORT
	for _, row := range []struct {
		namespace, style, protocol int
		want                       []error // one of them; nil is a pair
	}{
		{unix.AF_UNIX, unix.SOCK_STREAM, 0, nil},
		{unix.AF_UNIX, unix.SOCK_STREAM, unix.PF_UNIX, nil},
		{unix.AF_UNIX, unix.SOCK_DGRAM, 0, nil},
		{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0, nil},
		{unix.AF_UNIX, unix.SOCK_RAW, 0, nil},
		{unix.AF_UNIX, unix.SOCK_STREAM, 2, []error{unix.EPROTONOSUPPORT}},
		{unix.AF_UNIX, unix.SOCK_DGRAM, -1, []error{unix.EPROTONOSUPPORT}},
		{unix.AF_UNIX, unix.SOCK_SEQPACKET, 256, []error{unix.EPROTONOSUPPORT}},
		{unix.AF_UNIX, 0, 0, []error{unix.ESOCKTNOSUPPORT}},
		{unix.AF_UNIX, unix.SOCK_RDM, 0, []error{unix.ESOCKTNOSUPPORT}},
		{unix.AF_UNIX, unix.SOCK_RDM, 99, []error{unix.EPROTONOSUPPORT}},
		{unix.AF_UNIX, 11, 0, []error{unix.EINVAL}},
		{unix.AF_UNIX, unix.SOCK_STREAM | 1<<20, 0, []error{unix.EINVAL}},
		{unix.AF_INET, unix.SOCK_STREAM, 0, []error{unix.EOPNOTSUPP}},
		{unix.AF_INET, unix.SOCK_DGRAM, 17, []error{unix.EOPNOTSUPP}},
		{unix.AF_INET, unix.SOCK_STREAM, 17, []error{unix.EPROTONOSUPPORT}},
		{unix.AF_INET, unix.SOCK_SEQPACKET, 0, []error{unix.ESOCKTNOSUPPORT}},
		{unix.AF_INET, unix.SOCK_STREAM, -1, []error{unix.EINVAL}},
		{unix.AF_INET, unix.SOCK_DGRAM, 1, []error{unix.EACCES, unix.EOPNOTSUPP}}, // net.ipv4.ping_group_range
		{unix.AF_INET6, unix.SOCK_STREAM, 6, []error{unix.EOPNOTSUPP, absent}},
		{unix.AF_NETLINK, unix.SOCK_RAW, 0, []error{unix.EOPNOTSUPP}},
		{unix.AF_PACKET, unix.SOCK_DGRAM, 0, []error{unix.EOPNOTSUPP, unix.EPERM, absent}},
		{unix.AF_VSOCK, unix.SOCK_STREAM, 0, []error{unix.EOPNOTSUPP, absent}},
		{unix.AF_VSOCK, unix.SOCK_DGRAM, 0, []error{unix.ENODEV, unix.EOPNOTSUPP, absent}},
		{unix.AF_UNSPEC, unix.SOCK_STREAM, 0, []error{absent}},
		{45, unix.SOCK_STREAM, 0, []error{absent}},
		{99, unix.SOCK_STREAM, 0, []error{absent}},
		{-1, unix.SOCK_STREAM, 0, []error{absent}},
	} {
		name := fmt.Sprintf("%d %d %d", row.namespace, row.style, row.protocol)
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b, err := socketpair.Create(row.namespace, row.style, row.protocol)
			if err == nil {
				a.Close()
				b.Close()
			}
			if row.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var errno error
			for _, want := range row.want {
				if errors.Is(err, want) {
					errno = want
				}
			}
			if errno == nil {
				t.Fatalf("%v (%T), want one of %v", err, err, row.want)
			}
			unsupported := errno == absent || errno == unix.EPROTONOSUPPORT || errno == unix.ESOCKTNOSUPPORT || errno == unix.EOPNOTSUPP
			if errors.Is(err, errors.ErrUnsupported) != unsupported {
				t.Errorf("%v matches ErrUnsupported: %v", err, !unsupported)
			}
			if !strings.Contains(err.Error(), "use AF_UNIX") && !strings.Contains(err.Error(), "AF_UNIX has") && !strings.Contains(err.Error(), "in AF_UNIX only") && errno != unix.EINVAL {
				t.Errorf("%q does not say what to change", err)
			}
			t.Log(err)
		})
	}
}

// Create leaves the mode to the caller.
func TestCreateMode(t *testing.T) {
	testutil.NoLeaks(t)
	for _, flag := range []int{0, unix.SOCK_NONBLOCK} {
		a, b, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_STREAM|flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = a.SetReadDeadline(time.Now())
		if flag == 0 && !errors.Is(err, os.ErrNoDeadline) || flag != 0 && err != nil {
			t.Errorf("deadline of an end with flag %#x: %v", flag, err)
		}
		_ = sysfd.Control(a, func(fd int) error {
			if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK != flag&unix.SOCK_NONBLOCK {
				t.Errorf("flags %#x of an end that was asked for with %#x", flags, flag)
			}
			return nil
		})
		a.Close()
		b.Close()
	}
}

func TestStyleString(t *testing.T) {
	for style, want := range map[socketpair.Style]string{
		socketpair.Stream: "SOCK_STREAM", socketpair.Datagram: "SOCK_DGRAM", socketpair.SeqPacket: "SOCK_SEQPACKET",
		unix.SOCK_RAW: "SOCK_RAW", unix.SOCK_RDM: "SOCK_RDM", 99: "style 99",
	} {
		if got := style.String(); got != want {
			t.Errorf("%d is %q", int(style), got)
		}
	}
}
