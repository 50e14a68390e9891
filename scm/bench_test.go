//go:build linux

package scm_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func BenchmarkPair(b *testing.B) {
	b.Run("scm.Pair", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			x, y, err := scm.Pair(socketpair.SeqPacket)
			if err != nil {
				b.Fatal(err)
			}
			x.Close()
			y.Close()
		}
	})
	b.Run("scm.NewConn", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			u, v, err := socketpair.New(socketpair.SeqPacket)
			if err != nil {
				b.Fatal(err)
			}
			x, _ := scm.NewConn(u)
			y, _ := scm.NewConn(v)
			x.Close()
			y.Close()
		}
	})
}

// BenchmarkPass sends, receives and closes n descriptors, on one goroutine.
func BenchmarkPass(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64, 253} {
		fs := files(b, n)
		own := numbers(fs)
		conns := make([]syscall.Conn, n)
		for i, f := range fs {
			conns[i] = f
		}
		p := []byte("x")
		buf := make([]byte, 10)
		lazyA, lazyB, err := scm.Pair(socketpair.Stream)
		if err != nil {
			b.Fatal(err)
		}
		closeAtEnd(b, lazyA, lazyB)
		polledA, polledB := polled(b, socketpair.Stream)

		raw := func(x, y *scm.Conn) func(b *testing.B) {
			got := make([]int, n)
			return func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := x.SendFDs(p, own); err != nil {
						b.Fatal(err)
					}
					if _, k, err := y.ReceiveFDs(buf, got); k != n || err != nil {
						b.Fatal(k, err)
					}
					sysfd.CloseAll(got)
				}
			}
		}
		high := func(x, y *scm.Conn) func(b *testing.B) {
			return func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := x.Send(p, conns...); err != nil {
						b.Fatal(err)
					}
					m, err := y.Receive(buf, n)
					if err != nil {
						b.Fatal(err)
					}
					m.Close()
				}
			}
		}
		batch := func(x, y *scm.Conn) func(b *testing.B) {
			const size = 8
			out := make([]scm.Packet, size)
			for i := range out {
				out[i] = scm.Packet{Data: p, FDs: own}
			}
			in := packets(size, 10, n)
			return func(b *testing.B) {
				b.ReportAllocs()
				done := 0
				for b.Loop() { // one message of eight each time
					if done++; done%size != 0 {
						continue
					}
					if k, err := x.SendBatch(out); k != size || err != nil {
						b.Fatal(k, err)
					}
					for k := 0; k < size; {
						m, err := y.ReceiveBatch(in[k:])
						if err != nil {
							b.Fatal(err)
						}
						for i := range m {
							sysfd.CloseAll(in[k+i].FDs)
						}
						k += m
					}
				}
			}
		}
		b.Run(fmt.Sprintf("raw/lazy/%d", n), raw(lazyA, lazyB))
		b.Run(fmt.Sprintf("raw/poller/%d", n), raw(polledA, polledB))
		b.Run(fmt.Sprintf("high/lazy/%d", n), high(lazyA, lazyB))
		b.Run(fmt.Sprintf("high/poller/%d", n), high(polledA, polledB))
		b.Run(fmt.Sprintf("batch/lazy/%d", n), batch(lazyA, lazyB))
	}
}
