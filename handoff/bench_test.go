//go:build linux

package handoff

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// BenchmarkHandoff is the whole transaction but for the start of a process and for probation, which waits:
// from the connection to the moment at which the successor accepts.
func BenchmarkHandoff(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10000} {
		items := make([]Item, n)
		for i := range items {
			items[i] = Item{Name: fmt.Sprint(i), Kind: Listener}
			if i < 100 {
				items[i].Conn = tcp(b)
			} else {
				items[i].Conn = items[i%100].Conn // both sides have one table here
			}
		}
		benchmarkHandoff(b, fmt.Sprint(n), items)
	}
	one, other := tcpPair(b)
	defer one.Close()
	defer other.Close()
	connections := make([]Item, 10000)
	for i := range connections {
		connections[i] = Item{Name: fmt.Sprint(i), Kind: Connection, Conn: one}
	}
	benchmarkHandoff(b, "10000Connections", connections)
}

func benchmarkHandoff(b *testing.B, name string, items []Item) {
	b.Run(name, func(b *testing.B) {
		for b.Loop() {
			p, s := pair(b, socketpair.SeqPacket)
			var offering sync.WaitGroup
			offering.Go(func() {
				if err := Offer(b.Context(), p, Offering{Name: "web", Items: items, Deadlines: Deadlines{Probation: time.Microsecond, MaxPause: patient}}); err != nil {
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

// BenchmarkMoveLive replaces a server that has 8 000 kept-alive connections, each of which asks about once a second, and
// reports the longest request and the 99.9th percentile, in ms, around the upgrade and in as much time before it.
func BenchmarkMoveLive(b *testing.B) {
	const connections = 8000
	testutil.NeedFiles(b, connections+200)
	c := config(b)
	first := launch(b, c)
	ready := first.await("ready")
	var mu sync.Mutex
	var took []time.Duration
	var ended, failed int
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range connections {
		conn, err := net.Dial("tcp", ready.Addr)
		if err != nil {
			b.Fatal(err)
		}
		clients.Go(func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			for {
				select {
				case <-stop:
					return
				case <-time.After(500*time.Millisecond + rand.N(time.Second)):
				}
				begin := time.Now()
				closing, err := exchange(conn, in)
				mu.Lock()
				took = append(took, time.Since(begin))
				if closing {
					ended++
				}
				if err != nil {
					failed++
				}
				mu.Unlock()
				if closing || err != nil {
					return
				}
			}
		})
	}
	look := func(d time.Duration) (worst, late time.Duration) {
		mu.Lock()
		took = took[:0]
		mu.Unlock()
		time.Sleep(d) // that is what is measured
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(took)
		return took[len(took)-1], took[len(took)*999/1000]
	}
	const window = time.Second
	look(2 * window) // all have asked once
	var steadyWorst, steadyLate, worst, late time.Duration
	for b.Loop() {
		w, l := look(window)
		steadyWorst, steadyLate = max(steadyWorst, w), max(steadyLate, l)
		next := launch(b, c)
		w, l = look(window)
		worst, late = max(worst, w), max(late, l)
		next.await("ready")
		first.await("end")
		first = next
	}
	close(stop)
	clients.Wait()
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(worst), "ms-worst")
	b.ReportMetric(ms(steadyWorst), "ms-worst-steady")
	b.ReportMetric(ms(late), "ms-p99.9")
	b.ReportMetric(ms(steadyLate), "ms-p99.9-steady")
	b.ReportMetric(float64(ended), "ended")
	b.ReportMetric(float64(failed), "failed")
}
