package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"
)

func TestSpread(t *testing.T) {
	for _, row := range []struct {
		values []float64
		want   Spread
	}{
		{[]float64{7}, Spread{7, 7, 7}},
		{[]float64{4, 1, 3, 2, 5}, Spread{2, 3, 4}},
		{[]float64{1, 2}, Spread{1.25, 1.5, 1.75}},
	} {
		if got := spread(row.values); got != row.want {
			t.Errorf("%v: %v, want %v", row.values, got, row.want)
		}
	}
}

// Ratios are to the base of the same round, so what slows down a whole round does not show.
func TestPairedRatios(t *testing.T) {
	slow := time.Duration(1)
	turn := func(d time.Duration) func(int) (time.Duration, error) {
		return func(n int) (time.Duration, error) { return d * slow * time.Duration(n), nil }
	}
	closed := 0
	counting := func() { closed++ }
	results, err := measure(Case{}, []subject{
		{name: "base", close: counting, run: func(n int) (time.Duration, error) {
			slow = slow%3 + 1
			return turn(1000)(n)
		}},
		{name: "double", close: counting, run: turn(2000)},
		{name: "broken", close: counting, run: func(int) (time.Duration, error) { return 0, errors.New("no") }},
	}, 1, time.Microsecond)
	if err != nil {
		t.Fatal(err)
	}
	if got := results[1].Ratio; got != (Spread{2, 2, 2}) {
		t.Errorf("the ratio is %v, want 2", got)
	}
	if results[2].Failed != "no" || results[0].Failed != "" {
		t.Errorf("failed are %q and %q", results[0].Failed, results[2].Failed)
	}
	if closed != 3 {
		t.Errorf("%d were closed", closed)
	}
}

// Each contender passes what it should, in each style and number that it is said to handle.
func TestContenders(t *testing.T) {
	for i := range contenders {
		c := &contenders[i]
		for _, style := range styles {
			for _, count := range counts {
				if !c.can(style, count) {
					continue
				}
				s, err := messagesOf(c, style, count)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.run(3); err != nil {
					t.Errorf("%s, %v, %d: %v", c.name, style, count, err)
				}
				s.close()
			}
		}
	}
}

func TestReport(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "page.md")
	if err := os.WriteFile(file, []byte("before\n"+beginMarker+"old\n"+endMarker+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newReport(&options{out: filepath.Join(folder, "out"), page: file, all: true})
	c := Case{"message", inStream, 1}
	one := func(contender string, ratio float64) Result {
		return Result{Case: c, Contender: contender, Nanos: Spread{1, 4400, 3}, Ratio: Spread{ratio, ratio, ratio}, InGo: true}
	}
	r.Results = []Result{one("C, plain", 1), one("fdkit raw, lazy", 1.104), one("fdkit raw", 1.3)}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, want := range []string{
		"| raw, 1 descriptor, outside the poller | 1.10, 0 allocations | 1.10, 0 | met |",
		"| raw, 1, in the poller | 1.20, 0 allocations | 1.30, 0 | missed |",
		"| C, plain | 4.4 µs |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if !strings.HasPrefix(page, "before\n") || !strings.HasSuffix(page, "after\n") || strings.Contains(page, "old") {
		t.Errorf("the page is %q", page)
	}
	for _, name := range []string{"out/results.json", "out/results.md", "out/ratios.svg", "ratios.svg"} {
		if st, err := os.Stat(filepath.Join(folder, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
