//go:build linux

package scm_test

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// kinds returns one of each type that is usually sent.
func kinds(t *testing.T) []syscall.Conn {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	tcp, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	path, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(testutil.ShortDir(t), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { path.Close() })
	u, v, err := socketpair.New(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(); v.Close() })
	return []syscall.Conn{files(t, 1)[0], ln, tcp, udp, path, u}
}

// What the message path may allocate. These do not depend on the machine.
func TestAllocations(t *testing.T) {
	if testutil.Race {
		t.Skip("the race detector allocates")
	}
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		f := files(t, 1)[0]
		lent := kinds(t)
		own := numbers(files(t, 16))
		got := make([]int, 16)
		p := make([]byte, 10)
		out, in := []scm.Packet{{Data: p, FDs: own}, {Data: p, FDs: own}}, packets(2, 10, 16)
		for _, row := range []struct {
			what string
			want float64
			pass func()
		}{
			{"SendFDs and ReceiveFDs", 0, func() {
				_ = a.SendFDs(p, own)
				_, n, _ := b.ReceiveFDs(p, got)
				sysfd.CloseAll(got[:n])
			}},
			{"SendBatch and ReceiveBatch", 0, func() {
				_, _ = a.SendBatch(out)
				_, _ = b.ReceiveBatch(in)
				sysfd.CloseAll(in[0].FDs)
				sysfd.CloseAll(in[1].FDs)
			}},
			// The numbers of Files, and nothing for what is lent.
			{"Send and Receive", 1, func() {
				_ = a.Send(p, f)
				m, _ := b.Receive(p, 1)
				_ = m.Close()
			}},
			{"Send and Receive of many", 1, func() {
				_ = a.Send(p, lent...)
				m, _ := b.Receive(p, len(lent))
				_ = m.Close()
			}},
		} {
			if allocs := testing.AllocsPerRun(100, row.pass); allocs > row.want {
				t.Errorf("%s: %v allocations, want at most %v", row.what, allocs, row.want)
			}
		}
	})
}
