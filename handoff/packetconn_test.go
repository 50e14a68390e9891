//go:build linux

package handoff

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
)

// quicConn is what quic-go wants of a socket (its OOBCapablePacketConn).
type quicConn interface {
	net.PacketConn
	SyscallConn() (syscall.RawConn, error)
	SetReadBuffer(int) error
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
}

var (
	_ quicConn           = (*udpConn)(nil)
	_ pausablePacketConn = (*udpConn)(nil)
	_ pausablePacketConn = (*packetConn)(nil)
)

func newTestPacketConn(t *testing.T, network string, parked bool) pausablePacketConn {
	t.Helper()
	addr := "127.0.0.1:0"
	if network != "udp" {
		addr = filepath.Join(testutil.ShortDir(t), "socket")
	}
	c, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return wrapPacketConn(t, c, parked)
}

func wrapPacketConn(t *testing.T, c net.PacketConn, parked bool) pausablePacketConn {
	t.Helper()
	p, err := newPacketConn("test", c, parked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.base().release() })
	return p
}

// copyPacketConn passes a socket on as to a successor, which does not read yet.
func copyPacketConn(t *testing.T, c pausablePacketConn) pausablePacketConn {
	t.Helper()
	var got net.PacketConn
	passOn(t, c, func(f *scm.Files) (err error) {
		got, err = f.TakePacketConn(0)
		return err
	})
	return wrapPacketConn(t, got, true)
}

// reads are the ways to read.
var reads = map[string]func(c pausablePacketConn, p []byte) (int, error){
	"ReadFrom": func(c pausablePacketConn, p []byte) (int, error) {
		n, _, err := c.ReadFrom(p)
		return n, err
	},
	"Read": func(c pausablePacketConn, p []byte) (int, error) { return c.Read(p) },
	"ReadFromUDP": func(c pausablePacketConn, p []byte) (n int, err error) {
		n, _, err = c.(*udpConn).ReadFromUDP(p)
		return
	},
	"ReadFromUDPAddrPort": func(c pausablePacketConn, p []byte) (n int, err error) {
		n, _, err = c.(*udpConn).ReadFromUDPAddrPort(p)
		return n, err
	},
	"ReadMsgUDP": func(c pausablePacketConn, p []byte) (n int, err error) {
		n, _, _, _, err = c.(*udpConn).ReadMsgUDP(p, nil)
		return n, err
	},
	"ReadMsgUDPAddrPort": func(c pausablePacketConn, p []byte) (n int, err error) {
		n, _, _, _, err = c.(*udpConn).ReadMsgUDPAddrPort(p, nil)
		return n, err
	},
	"recvmmsg": func(c pausablePacketConn, p []byte) (int, error) {
		m := []ipv4.Message{{Buffers: [][]byte{p}}}
		_, err := ipv4.NewPacketConn(c).ReadBatch(m, 0)
		return m[0].N, err
	},
}

// Each way to read waits at the gate, and tells no error of it.
func TestPacketConnReads(t *testing.T) {
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			c := newTestPacketConn(t, "udp", false)
			client, err := net.Dial("udp", c.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			got, errs := make(chan string, 1), make(chan error, 1)
			go func() {
				for {
					p := make([]byte, 64)
					n, err := read(c, p)
					if err != nil {
						errs <- err
						return
					}
					got <- string(p[:n])
				}
			}()
			<-c.base().waiting()
			for range 5 {
				pauseNow(t, c.base())
				_, _ = client.Write([]byte("held"))
				raw, err := c.base().sock.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				testutil.Eventually(t, "it has come, and was not read in the pause", func() bool { return hasData(raw) })
				c.base().resume()
				if s := <-got; s != "held" {
					t.Errorf("%q", s)
				}
			}
			_ = c.Close()
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
	}
}

func hasData(raw syscall.RawConn) (ok bool) {
	_ = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ok = err == nil && n > 0
	})
	return ok
}

func TestPacketConnWrites(t *testing.T) {
	testutil.NoLeaks(t)
	a := newTestPacketConn(t, "udp", true).(*udpConn) // writing is not paused
	b := newTestPacketConn(t, "udp", false).(*udpConn)
	to := b.LocalAddr().(*net.UDPAddr)
	for name, write := range map[string]func(p []byte) error{
		"WriteTo":            func(p []byte) error { _, err := a.WriteTo(p, to); return err },
		"WriteToUDP":         func(p []byte) error { _, err := a.WriteToUDP(p, to); return err },
		"WriteToUDPAddrPort": func(p []byte) error { _, err := a.WriteToUDPAddrPort(p, to.AddrPort()); return err },
		"WriteMsgUDP":        func(p []byte) error { _, _, err := a.WriteMsgUDP(p, nil, to); return err },
		"WriteMsgUDPAddrPort": func(p []byte) error {
			_, _, err := a.WriteMsgUDPAddrPort(p, nil, to.AddrPort())
			return err
		},
	} {
		if err := write([]byte(name)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := make([]byte, 64)
		if n, _, err := b.ReadFrom(p); err != nil || string(p[:n]) != name {
			t.Errorf("%s: %q, %v", name, p[:n], err)
		}
	}
	if _, err := a.Write([]byte("x")); err == nil || a.RemoteAddr() != nil {
		t.Error("a socket without a destination wrote to it")
	}
}

// The owner's own deadline is seen through a pause: it ends a read that waits at the gate, and one that
// a pause woke goes on until it.
func TestPacketConnDeadlines(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			testutil.NoLeaks(t)
			c := newTestPacketConn(t, network, false)
			p := c.base()
			read := func() <-chan error {
				done := make(chan error, 1)
				go func() {
					_, _, err := c.ReadFrom(make([]byte, 1))
					done <- err
				}()
				return done
			}
			isTimeout := func(what string, err error) {
				t.Helper()
				var ne net.Error
				if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
					t.Errorf("%s: %v", what, err)
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			done := read()
			<-p.waiting()
			pauseNow(t, p)
			isTimeout("at the gate", <-done)

			_ = c.SetReadDeadline(time.Time{})
			done = read()
			_ = c.SetReadDeadline(time.Now()) // as a QUIC library ends its loop
			isTimeout("set while at the gate", <-done)
			isTimeout("past at the gate", <-read())
			p.resume()
			isTimeout("after the pause", <-read())

			_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
			done = read()
			<-p.waiting()
			for range 20 {
				pauseNow(t, p)
				p.resume()
			}
			isTimeout("after many pauses", <-done)

			_ = c.SetDeadline(time.Time{})
			done = read()
			pauseNow(t, p)
			_ = p.release()
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if err := c.SetReadDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
	}
}

// A pause that cannot have all readers says so when its time is over, and they are not lost.
func TestPacketConnPauseGivesUp(t *testing.T) {
	testutil.NoLeaks(t)
	c := newTestPacketConn(t, "udp", false)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	inside, leave, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- raw.Read(func(uintptr) bool {
			close(inside)
			<-leave
			return true
		})
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.base().pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	pauseNow(t, c.base())
}

// Two processes take turns to read from one socket, while a client sends at a rate of its own and
// counts. None is lost but what the kernel's queue had no room for, none comes twice, and a turn begins only when the
// other has ended.
func TestPacketConnTurns(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			testutil.NoLeaks(t)
			const rate, turns = 10_000, 200 // datagrams in a second
			if testing.Short() {
				t.Skip("takes a second")
			}
			c := newTestPacketConn(t, network, false)
			_ = c.SetReadBuffer(1 << 20)
			readers := [2]pausablePacketConn{c, copyPacketConn(t, c)}
			var seen [2][]uint64
			var came atomic.Int64
			var reading sync.WaitGroup
			for i, r := range readers {
				reading.Go(func() {
					p := make([]byte, 64)
					for {
						n, _, err := r.ReadFrom(p)
						if err != nil {
							if !errors.Is(err, net.ErrClosed) {
								t.Error(err)
							}
							return
						}
						if n == 8 {
							seen[i] = append(seen[i], binary.BigEndian.Uint64(p))
							came.Add(1)
						}
					}
				})
			}
			client, err := net.Dial(network, c.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			stop := make(chan struct{})
			var sent uint64
			begin := time.Now()
			var sending sync.WaitGroup
			sending.Go(func() {
				for {
					for due := uint64(time.Since(begin).Seconds() * rate); sent < due; sent++ {
						if _, err := client.Write(binary.BigEndian.AppendUint64(nil, sent)); err != nil {
							t.Error(err)
							return
						}
					}
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			})
			var gap time.Duration
			for turn := range turns {
				from, to := readers[turn%2].base(), readers[(turn+1)%2].base()
				start := time.Now()
				pauseNow(t, from)
				if from.gate.inside != 0 {
					t.Error("two readers")
				}
				waiting := to.waiting()
				to.resume()
				<-waiting
				gap = max(gap, time.Since(start))
				time.Sleep(2 * time.Millisecond) // the turn
			}
			close(stop)
			sending.Wait()
			var dropped uint32
			testutil.Eventually(t, "all were read", func() bool {
				var err error
				if network == "udp" { // the other's client waits
					dropped, err = c.base().dropped()
				}
				return err == nil && came.Load()+int64(dropped) == int64(sent)
			})
			for _, r := range readers {
				pauseNow(t, r.base())
				_ = r.Close()
			}
			reading.Wait()
			all := map[uint64]int{}
			for _, s := range seen {
				for _, n := range s {
					all[n]++
				}
			}
			if all, want := len(all), int(sent)-int(dropped); all != want || len(seen[0])+len(seen[1]) != want {
				t.Errorf("%d sent, %d had no room, %d came, %d different", sent, dropped, len(seen[0])+len(seen[1]), all)
			}
			t.Logf("%d datagrams at %.0f a second, %d of them had no room, %d and %d read in %d turns, longest gap %v", sent,
				float64(sent)/time.Since(begin).Seconds(), dropped, len(seen[0]), len(seen[1]), turns, gap)
		})
	}
}

// What the queue could not hold is counted.
func TestPacketConnDropped(t *testing.T) {
	testutil.NoLeaks(t)
	c := newTestPacketConn(t, "udp", true)
	_ = c.SetReadBuffer(4096)
	client, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if n, err := c.base().dropped(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	const sent = 200
	for range sent {
		_, _ = client.Write(make([]byte, 512))
	}
	testutil.Eventually(t, "some are dropped", func() bool {
		n, err := c.base().dropped()
		return err != nil || n > 0
	})
	_ = c.SetReadDeadline(time.Now().Add(patient))
	c.base().resume()
	var got int
	var n uint32
	for ; ; got++ {
		if n, err = c.base().dropped(); err != nil {
			t.Fatal(err)
		}
		if got+int(n) >= sent {
			break
		}
		if _, _, err := c.ReadFrom(make([]byte, 512)); err != nil {
			t.Fatalf("%d dropped, %d read: %v", n, got, err)
		}
	}
	if raw, err := c.base().sock.SyscallConn(); err != nil || hasData(raw) || n == 0 {
		t.Errorf("%d dropped, %d read, and more is there", n, got)
	}
	successor := copyPacketConn(t, c)
	if m, err := successor.base().dropped(); m != n || err != nil {
		t.Errorf("the copy says %d, %v", m, err)
	}
}

func TestPacketConnRefusesOthers(t *testing.T) {
	testutil.NoLeaks(t)
	c := newTestPacketConn(t, "udp", false)
	type other struct{ net.PacketConn }
	if _, err := newPacketConn("other", other{c}, false); !errors.Is(err, ErrItem) {
		t.Error(err)
	}
}
