package main

import (
	"runtime"
	"slices"
	"time"

	"github.com/pkg/errors"
)

// A subject is a contender in one place: it makes n operations and says how long they took.
type subject struct {
	name  string
	run   func(n int) (time.Duration, error)
	close func()
	inGo  bool // allocations can be counted
}

// timed makes a subject's run of a function that makes n operations here.
func timed(f func(n int) error) func(n int) (time.Duration, error) {
	return func(n int) (time.Duration, error) {
		begin := time.Now()
		err := f(n)
		return time.Since(begin), err
	}
}

// A Spread is the middle of some values.
type Spread struct {
	Low    float64 `json:"q1"`
	Median float64 `json:"median"`
	High   float64 `json:"q3"`
}

func spread(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 {
		x := q * float64(len(sorted)-1)
		i := int(x)
		if i+1 == len(sorted) {
			return sorted[i]
		}
		return sorted[i] + (x-float64(i))*(sorted[i+1]-sorted[i])
	}
	return Spread{at(0.25), at(0.5), at(0.75)}
}

// A Result is one contender in one case.
type Result struct {
	Case
	Contender string  `json:"contender"`
	Nanos     Spread  `json:"ns"`    // for an operation
	Ratio     Spread  `json:"ratio"` // to C of the same round
	Best      float64 `json:"best"`  // its fastest round to the fastest of C: other load matters least to it
	Allocs    float64 `json:"allocations"`
	Calls     float64 `json:"system_calls,omitempty"` // for an operation; 0 if they were not counted
	InGo      bool    `json:"go"`
	Failed    string  `json:"failed,omitempty"`
}

// measure lets the subjects, of which the first is the base, take turns. A round is one turn of each, of
// about the time slice; every round begins with another one. Who fails is out, and its error is in the
// result.
func measure(c Case, subjects []subject, rounds int, slice time.Duration) ([]Result, error) {
	defer func() {
		for _, s := range subjects {
			if s.close != nil {
				s.close()
			}
		}
	}()
	n, err := calibrate(subjects[0], slice)
	if err != nil {
		return nil, errors.WithMessage(err, subjects[0].name)
	}
	results := make([]Result, len(subjects))
	for i, s := range subjects {
		results[i] = Result{Case: c, Contender: s.name, InGo: s.inGo}
		if _, err := s.run(n); err != nil { // to warm it up
			results[i].Failed = err.Error()
		}
	}
	nanos, ratios := make([][]float64, len(subjects)), make([][]float64, len(subjects))
	for round := range rounds {
		took := make([]time.Duration, len(subjects))
		for j := range subjects {
			i := (round + j) % len(subjects)
			if results[i].Failed != "" {
				continue
			}
			if took[i], err = subjects[i].run(n); err != nil {
				results[i].Failed = err.Error()
			}
		}
		if results[0].Failed != "" {
			return nil, errors.Errorf("%s: %s", subjects[0].name, results[0].Failed)
		}
		for i := range subjects {
			nanos[i] = append(nanos[i], float64(took[i])/float64(n))
			ratios[i] = append(ratios[i], float64(took[i])/float64(took[0]))
		}
	}
	for i, s := range subjects {
		r := &results[i]
		if r.Failed != "" {
			continue
		}
		r.Nanos, r.Ratio = spread(nanos[i]), spread(ratios[i])
		r.Best = slices.Min(nanos[i]) / slices.Min(nanos[0])
		if s.inGo {
			if r.Allocs, err = allocations(s, n); err != nil {
				return nil, errors.WithMessage(err, s.name)
			}
		}
	}
	return results, nil
}

// unit is what the number of operations is a multiple of: the messages of a batch.
const unit = 8

// calibrate returns how many operations of s take about as long as slice.
func calibrate(s subject, slice time.Duration) (int, error) {
	for n := unit; ; n *= 2 {
		took, err := s.run(n)
		if err != nil {
			return 0, err
		}
		if took > slice/4 {
			n = int(float64(n) * float64(slice) / float64(took))
			return max(unit, n/unit*unit), nil
		}
	}
}

// allocations returns how many allocations an operation makes.
func allocations(s subject, n int) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := s.run(n)
	runtime.ReadMemStats(&after)
	few := float64(after.Mallocs-before.Mallocs) / float64(n)
	return float64(int(few*100+0.5)) / 100, err
}
