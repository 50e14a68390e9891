package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/load"
)

const ms = time.Millisecond

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		times []time.Duration
		p     float64
		want  time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{7}, 50, 7},
		{[]time.Duration{7}, 0, 7},
		{[]time.Duration{1, 2}, 50, 1},
		{[]time.Duration{1, 2, 3}, 50, 2},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
	} {
		if got := percentile(tt.times, tt.p); got != tt.want {
			t.Errorf("%v %% of %v is %v, want %v", tt.p, tt.times, got, tt.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -5: "-5", -123456: "-123,456"} {
		if got := count(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "–", 1234 * time.Microsecond: "1.23 ms", 12345 * time.Microsecond: "12.3 ms", 1500 * ms: "1500 ms"} {
		if got := milliseconds(d); got != want {
			t.Errorf("%v is %q", d, got)
		}
	}
	for x, want := range map[float64]int{0: 1, 1: 1, 1.1: 2, 3: 5, 6: 10, 101: 200, 2001: 5000} {
		if got := niceStep(x); got != want {
			t.Errorf("step %v is %v", x, got)
		}
	}
}

// answers is a load of one client with an answer every interval.
func answers(took, interval time.Duration, generation func(time.Duration) uint64) *load.Load {
	c := &load.Client{Kind: load.KeepAlive, Served: map[load.Origin]int64{}}
	l := &load.Load{Took: took, Clients: []*load.Client{c}}
	for t := time.Duration(0); t < took; t += interval {
		g := generation(t)
		if g == 0 {
			continue // nobody answers
		}
		c.Samples = append(c.Samples, load.Sample{Start: t, Took: 1000, PID: int32(100 * g)})
		c.Served[load.Origin{Generation: g, PID: int(100 * g)}]++
		l.Answered.Add(1)
	}
	return l
}

func TestSlowestSecond(t *testing.T) {
	always := func(time.Duration) uint64 { return 1 }
	if n, _ := slowestSecond(answers(3*time.Second, 10*ms, always)); n < 99 || n > 100 {
		t.Errorf("%d answers in the slowest second", n)
	}
	if n, at := slowestSecond(answers(3*time.Second, 10*ms, func(t time.Duration) uint64 {
		if t >= 1500*ms && t < 2*time.Second {
			return 0
		}
		return 1
	})); n < 49 || n > 51 || at < 900*ms || at > 1500*ms {
		t.Errorf("%d answers in the slowest second, at %v", n, at)
	}
	if n, _ := slowestSecond(answers(500*ms, 10*ms, always)); n != 100 {
		t.Errorf("%d answers a second in half a second", n)
	}
}

// sampleTrial is one upgrade after a second, and one that fails after two.
func sampleTrial() *trial {
	second := &generation{number: 2, pid: 200, handOver: 50 * ms, pause: ms, ended: true, requests: 200, drain: 5 * ms, cut: 1}
	r := &trial{
		generations: []*generation{{number: 1, pid: 100, ended: true, requests: 100, drain: 5 * ms}, second},
		changes:     []change{{1000 * ms, 1050 * ms, second}, {2000 * ms, 2020 * ms, nil}},
		load: answers(3*time.Second, 10*ms, func(t time.Duration) uint64 {
			if t < time.Second {
				return 1
			}
			return 2
		}),
	}
	r.upgrades, r.mix = 2, "mix"
	return r
}

func TestLatencies(t *testing.T) {
	around, away := sampleTrial().latencies()
	// From 1 s to 1.15 s and from 2 s to 2.12 s, both ends included.
	if len(around) != 16+13 || len(around)+len(away) != 300 {
		t.Errorf("%d around, %d away", len(around), len(away))
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*trial)
		want  []string
	}{
		{"all is well", func(*trial) {}, nil},
		{"too slow", func(r *trial) { r.rate = 101 }, []string{"too few requests: "}},
		{"a request failed", func(r *trial) {
			r.load.Clients[0].Failures = []load.Failure{{At: 1500 * ms, Client: 3, Kind: load.WithPauses, Err: errors.New("reset")}}
		}, []string{"requests failed: 1 of 301", "failed request: 1.500 s, client 3 (kept alive, with pauses): reset"}},
		{"an answer was lost", func(r *trial) { r.generations[0].requests++ }, []string{"wrong count: generation 1 served 101 requests, and clients have 100 answers"}},
		{"somebody else answered", func(r *trial) { r.load.Clients[0].Served[load.Origin{Generation: 2, PID: 7}]++ }, []string{"answers from an unknown process: generation 2, pid 7"}},
	} {
		r := sampleTrial()
		tt.spoil(r)
		r.judge()
		if len(r.problems) != len(tt.want) {
			t.Errorf("%s: %q", tt.name, r.problems)
			continue
		}
		for i, want := range tt.want {
			if !strings.HasPrefix(r.problems[i], want) {
				t.Errorf("%s: %q", tt.name, r.problems[i])
			}
		}
	}
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	sampleTrial().write(&b)
	const want = `
   generation   pid   hand-over   nobody accepts     drain   requests
            1   100           –                –   5.00 ms        100
            2   200     50.0 ms          1.00 ms   5.00 ms        200

requests                         300   100/s, 100 in the slowest second
  on new connections               0
  kept alive                     300
  kept alive, with pauses          0
failed requests                    0
reconnects                         0   as the server asked
cut by a drain                     1

              latency       p50       p99     p99.9       max   requests
   around a hand-over   1.00 ms   1.00 ms   1.00 ms   1.00 ms         29
       away from them   1.00 ms   1.00 ms   1.00 ms   1.00 ms        271
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got%s", got)
	}
}

func TestPlot(t *testing.T) {
	r := sampleTrial()
	r.load.Clients[0].Failures = []load.Failure{{At: 1500 * ms, Client: 3, Kind: load.WithPauses, Err: errors.New("reset")}}
	svg := r.plotSVG()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	for _, want := range []string{">300 requests while the server was replaced once<", ">1 failed<", ">failed<", ">generation 1<", ">generation 2<", ">requests per 20 ms<", ">2: 200 requests<"} {
		if !bytes.Contains(svg, []byte(want)) {
			t.Errorf("no %q in\n%s", want, svg)
		}
	}
	if bars := r.bars(500 * ms); len(bars) != 6 || bars[0][0] != 50 || bars[0][1] != 0 || bars[5][1] != 50 {
		t.Errorf("bars %v", bars)
	}
}

// A trial that was interrupted at once is drawn as well.
func TestPlotOfNothing(t *testing.T) {
	r := &trial{load: &load.Load{}, generations: []*generation{{number: 1, pid: 1}}}
	if svg := r.plotSVG(); !bytes.HasSuffix(svg, []byte("</svg>\n")) {
		t.Errorf("%s", svg)
	}
	r.write(io.Discard)
	r.judge()
}
