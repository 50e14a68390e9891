package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fdkit/fdkit/internal/load"
)

// aftermath is for how long after a hand-over a request still counts as made around it.
const aftermath = 100 * time.Millisecond

// write writes the table of generations and the totals.
func (r *trial) write(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "generation\tpid\thand-over\tnobody accepts\tdrain\trequests\t")
	for _, g := range r.generations {
		handOver, pause, drain, requests := "–", "–", "?", "?"
		if g.handOver > 0 {
			handOver, pause = milliseconds(g.handOver), milliseconds(g.pause)
		}
		switch {
		case g.killed:
			drain = "killed"
		case g.ended:
			drain, requests = milliseconds(g.drain), count(int(g.requests))
		}
		fmt.Fprintf(table, "%d\t%d\t%s\t%s\t%s\t%s\t\n", g.number, g.pid, handOver, pause, drain, requests)
	}
	_ = table.Flush()
	fmt.Fprintln(w)

	answered := int(r.load.Answered.Load())
	slowest, _ := slowestSecond(r.load)
	total := func(what, n, remark string) {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-26s %9s   %s", what, n, remark), " "))
	}
	total("requests", count(answered), fmt.Sprintf("%s/s, %s in the slowest second",
		count(rate(r.load, answered)), count(slowest)))
	answeredTo := r.load.ByKind()
	for _, k := range slices.Compact(slices.Clone(mixes[r.mix])) {
		total("  "+k.String(), count(answeredTo[k]), "")
	}
	blame := r.blame()
	total("failed requests", count(len(blame.failed)), "")
	if r.killed != nil {
		total("died with the killed", count(len(blame.died)), fmt.Sprintf("%v, pid %d, was answering them", r.kill, r.killed.PID))
		if r.kill.step == "offering" {
			total("refused", count(len(blame.refused)), "while nobody had the socket")
		}
	}
	total("reconnects", count(r.load.Reconnects()), "as the server asked")
	if n := r.cut(); n > 0 {
		total("cut by a drain", count(n), "")
	}
	fmt.Fprintln(w)

	around, away := r.latencies()
	latency := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(latency, "latency\tp50\tp99\tp99.9\tmax\trequests\t")
	for _, row := range []struct {
		what  string
		times []time.Duration
	}{{"around a hand-over", around}, {"away from them", away}} {
		fmt.Fprintf(latency, "%s\t", row.what)
		for _, p := range []float64{50, 99, 99.9, 100} {
			fmt.Fprintf(latency, "%s\t", milliseconds(percentile(row.times, p)))
		}
		fmt.Fprintf(latency, "%s\t\n", count(len(row.times)))
	}
	_ = latency.Flush()
}

// latencies returns, each in order, how long requests took that were under way between a trigger and
// a moment after its end, and the others.
func (r *trial) latencies() (around, away []time.Duration) {
	for s := range r.load.Samples() {
		near := slices.ContainsFunc(r.changes, func(c change) bool {
			return s.End() >= c.trigger && s.Start <= c.serving+aftermath
		})
		if near {
			around = append(around, s.Duration())
		} else {
			away = append(away, s.Duration())
		}
	}
	slices.Sort(around)
	slices.Sort(away)
	return around, away
}

// cut returns how many connections the drains had to cut.
func (r *trial) cut() (n int) {
	for _, g := range r.generations {
		n += g.cut
	}
	return n
}

// slowestSecond returns the fewest answers of any second, looked at each tenth of it, and when that second
// began. Of a shorter load it returns the rate.
func slowestSecond(l *load.Load) (answers int, at time.Duration) {
	const step, steps = 100 * time.Millisecond, 10
	buckets := make([]int, l.Took/step)
	n := 0
	for s := range l.Samples() {
		n++
		if i := int(s.End() / step); i < len(buckets) {
			buckets[i]++
		}
	}
	if len(buckets) < steps {
		return rate(l, n), 0
	}
	answers = math.MaxInt
	sum := 0
	for i, b := range buckets {
		sum += b
		if i >= steps {
			sum -= buckets[i-steps]
		}
		if i >= steps-1 && sum < answers {
			answers, at = sum, time.Duration(i+1-steps)*step
		}
	}
	return answers, at
}

// rate returns how many in a second n in all are.
func rate(l *load.Load, n int) int {
	if l.Took <= 0 {
		return 0
	}
	return int(float64(n) / l.Took.Seconds())
}

// percentile returns the smallest of times, which are in order, that p percent of them do not
// exceed; 0 if there are none.
func percentile(times []time.Duration, p float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(times))))
	return times[max(rank, 1)-1]
}

// milliseconds shows d with three digits that mean something.
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case d == 0:
		return "–"
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// count shows n with its thousands apart.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
