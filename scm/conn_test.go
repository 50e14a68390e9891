//go:build linux

package scm_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestNewConnRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	if _, err := scm.NewConn(nil); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("nil: %v", err)
	}
	if _, err := scm.NewConn(new(net.UnixConn)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("the zero value: %v", err)
	}
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	a.Close()
	if _, err := scm.NewConn(a); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Only an AF_UNIX socket carries descriptors; TCP takes the message and drops them.
func TestInheritRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	socket := func(domain, style int) int {
		fd, err := unix.Socket(domain, style|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	tcp, udp := socket(unix.AF_INET, unix.SOCK_STREAM), socket(unix.AF_INET, unix.SOCK_DGRAM)
	listening := socket(unix.AF_UNIX, unix.SOCK_STREAM)
	if err := unix.Bind(listening, &unix.SockaddrUnix{Name: filepath.Join(testutil.ShortDir(t), "s")}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listening, 1); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		what string
		fd   int
		want error
	}{
		{"TCP", tcp, scm.ErrNotUnix},
		{"UDP", udp, scm.ErrNotUnix},
		{"a listener", listening, scm.ErrListening},
		{"a file", numbers(files(t, 1))[0], unix.ENOTSOCK},
		{"a closed number", 1 << 20, unix.EBADF},
	} {
		for range 2 { // a failed claim is none
			if _, err := scm.Inherit(uintptr(row.fd)); !errors.Is(err, row.want) {
				t.Errorf("%s: %v", row.what, err)
			}
		}
	}
}

func TestInheritOnce(t *testing.T) {
	testutil.NoLeaks(t)
	fds, err := sysfd.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := scm.Inherit(uintptr(fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	b, err := scm.Inherit(uintptr(fds[1]))
	if err != nil {
		t.Fatal(err)
	}
	mustPass(t, a, b)
	for _, inherit := range []func() error{
		func() error { _, err := scm.Inherit(uintptr(fds[0])); return err },
		func() error { _, err := socketpair.Inherit(uintptr(fds[0])); return err },
	} {
		if err := inherit(); !errors.Is(err, scm.ErrClaimed) || !errors.Is(err, socketpair.ErrClaimed) {
			t.Errorf("the second claim: %v", err)
		}
	}
	a.Close()
	b.Close()
	if _, err := scm.Inherit(uintptr(fds[0])); !errors.Is(err, scm.ErrClaimed) {
		t.Errorf("a claim after the close: %v", err)
	}
	sysfd.Unclaim(fds[0]) // other tests make pairs with these numbers
	sysfd.Unclaim(fds[1])
}

func TestPairErrors(t *testing.T) {
	testutil.NoLeaks(t)
	if _, _, err := scm.Pair(99); !errors.Is(err, unix.EINVAL) {
		t.Errorf("unknown style: %v", err)
	}
	if _, _, err := scm.Pair(unix.SOCK_RDM); !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.ESOCKTNOSUPPORT) {
		t.Errorf("a style that AF_UNIX does not have: %v", err)
	}
	for free := range 2 {
		empty := testutil.FillTable(t, free)
		_, _, err := scm.Pair(socketpair.Stream)
		empty()
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("%d free: %v", free, err)
		}
	}
}

func TestCloseTwice(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		for range 2 {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := (*scm.Conn)(nil).Close(); err != nil {
			t.Error(err)
		}
		if err := a.SetPassCred(true); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetPassCred after the close: %v", err)
		}
	})
}

// Close while others send and receive: nobody may work on a number that belongs to another file by
// now. Each round makes a new pair, which gets the numbers of the closed one; nothing that was
// meant for the old may arrive there.
func TestCloseWhileInUse(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			f := files(t, 1)[0]
			for range 300 {
				a, b, err := scm.Pair(style)
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for a.Send([]byte("old"), f) == nil {
						}
					})
					wg.Go(func() {
						p := make([]byte, 10)
						for {
							m, err := b.Receive(p, 1)
							m.Close()
							if err != nil {
								return
							}
						}
					})
				}
				a.Close()
				b.Close()
				c, d, err := scm.Pair(style)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Send([]byte("new")); err != nil {
					t.Fatal(err)
				}
				m, err := d.Receive(make([]byte, 10), 1)
				if err != nil || !bytes.Equal(m.Data, []byte("new")) {
					t.Fatalf("on the new pair: %q, %v", m.Data, err)
				}
				m.Close()
				wg.Wait()
				mustBeEmpty(t, c)
				mustBeEmpty(t, d)
				c.Close()
				d.Close()
			}
		})
	}
}

// An exec'd child must not inherit an end that was inherited here.
func TestInheritIsCloseOnExec(t *testing.T) {
	testutil.NoLeaks(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	c, err := scm.Inherit(uintptr(fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer sysfd.Unclaim(fds[0])
	defer c.Close()
	if flags(t, fds[0], unix.F_GETFD)&unix.FD_CLOEXEC == 0 {
		t.Error("the inherited end is not close-on-exec")
	}
}
