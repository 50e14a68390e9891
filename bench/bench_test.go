package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if doJob() {
		return
	}
	code := m.Run()
	cleanUp()
	os.Exit(code)
}

// slice is the turn of a contender. A round of all of them is an operation of go test's.
const slice = time.Millisecond

// report runs a case, in as many rounds as go test wants, and reports all ratios.
func report(b *testing.B, e *experiment, c Case) {
	b.Helper()
	results, err := e.run(c, b.N, slice)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op") // of a round: of no interest
	for _, r := range results {
		if r.Failed != "" {
			b.Errorf("%s: %s", r.Contender, r.Failed)
			continue
		}
		b.ReportMetric(r.Ratio.Median, strings.ReplaceAll(r.Contender, " ", "_")+"/C")
	}
}

// Benchmark prints the median ratio of each contender to C. The whole program says more: see run.sh.
func Benchmark(b *testing.B) {
	for i := range experiments {
		e := &experiments[i]
		if err := e.possible(); err != nil {
			b.Run(e.name, func(b *testing.B) { b.Skip(err) })
			continue
		}
		for _, c := range e.cases() {
			b.Run(c.String(), func(b *testing.B) { report(b, e, c) })
		}
	}
}
