//go:build linux

package handoff

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/fdkit/fdkit/socketpair"
)

// BenchmarkHandoff is the whole transaction but for the start of a process and for probation, which waits:
// from the connection to the moment at which the successor accepts.
func BenchmarkHandoff(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			items := make([]Item, n)
			for i := range items {
				items[i] = Item{Name: fmt.Sprint(i), Kind: Listener}
				if i < 100 {
					items[i].Conn = tcp(b)
				} else {
					items[i].Conn = items[i%100].Conn // both sides have one table here
				}
			}
			for b.Loop() {
				p, s := pair(b, socketpair.SeqPacket)
				var offering sync.WaitGroup
				offering.Go(func() {
					if err := Offer(b.Context(), p, Offering{Name: "web", Items: items, Deadlines: Deadlines{Probation: time.Microsecond}}); err != nil {
						b.Error(err)
					}
				})
				to, err := Take(b.Context(), s, Wish{Name: "web"})
				if err != nil {
					b.Fatal(err)
				}
				if err := to.Ready(b.Context()); err != nil {
					b.Fatal(err)
				}
				to.Serving()
				b.StopTimer()
				if err := to.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
				to.Close()
				offering.Wait()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkTakeListener is what a listener costs its new owner.
func BenchmarkTakeListener(b *testing.B) {
	ln := tcp(b)
	for b.Loop() {
		p, s := pair(b, socketpair.SeqPacket)
		if err := p.Send([]byte("x"), ln); err != nil {
			b.Fatal(err)
		}
		m, err := s.Receive(make([]byte, 1), 1)
		if err != nil {
			b.Fatal(err)
		}
		var got net.Listener
		if got, err = m.Files.TakeListener(0); err != nil {
			b.Fatal(err)
		}
		got.Close()
		p.Close()
		s.Close()
	}
}
