package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A page is Markdown while it is written.
type page struct{ bytes.Buffer }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// table writes rows of cells, the first of which is the head.
func (p *page) table(rows [][]string) {
	for i, row := range rows {
		p.line("| %s |", strings.Join(row, " | "))
		if i == 0 {
			p.line("|%s", strings.Repeat("---|", len(row)))
		}
	}
	p.line("")
}

func (r *Report) markdown() []byte {
	p := &page{}
	p.line("%s. %s. %d rounds, turns of %v, %v in all.", r.When.Format("2 January 2006"), r.Machine, r.Rounds, r.Slice,
		time.Since(r.begin).Round(time.Second))
	p.line("")
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		parts = append(parts, name+" "+r.Versions[name])
	}
	p.line("Versions: %s.", strings.Join(parts, "; "))
	p.line("")
	for _, what := range r.LeftOut {
		p.line("Left out: %s", what)
		p.line("")
	}
	r.goals(p)
	for i := range experiments {
		e := &experiments[i]
		if slices.ContainsFunc(r.Results, func(x Result) bool { return x.Experiment == e.name }) {
			p.line("### %s\n\n%s\n", e.title, e.about)
			if e.counts[0] == 0 {
				r.simple(p, e)
			} else {
				r.bySize(p, e)
			}
		}
	}
	r.many(p)
	r.restarted(p)
	return bytes.TrimSpace(p.Bytes())
}

// of returns the results of a case, in their order.
func (r *Report) of(c Case) []Result {
	var some []Result
	for _, x := range r.Results {
		if x.Case == c {
			some = append(some, x)
		}
	}
	return some
}

func (r *Report) find(c Case, contender string) (Result, bool) {
	for _, x := range r.of(c) {
		if x.Contender == contender && x.Failed == "" {
			return x, true
		}
	}
	return Result{}, false
}

// simple is the table of an experiment that has one case.
func (r *Report) simple(p *page, e *experiment) {
	rows := [][]string{{"contender", "× C (quartiles)", "time", "allocations", "system calls"}}
	for _, x := range r.of(e.cases()[0]) {
		if x.Failed != "" {
			rows = append(rows, []string{x.Contender, "failed: " + x.Failed, "", "", ""})
			continue
		}
		rows = append(rows, []string{x.Contender, ratio(x), nanos(x.Nanos.Median), allocs(x), calls(x)})
	}
	p.table(rows)
}

// bySize is a table for each style.
func (r *Report) bySize(p *page, e *experiment) {
	for _, style := range e.styles {
		var names []string
		for _, count := range e.counts {
			for _, x := range r.of(Case{e.name, style.String(), count}) {
				if !slices.Contains(names, x.Contender) {
					names = append(names, x.Contender)
				}
			}
		}
		if len(names) == 0 {
			continue
		}
		p.line("`%s`, × C (quartiles), by descriptors in a message:\n", style)
		head := []string{"contender"}
		for _, count := range e.counts {
			head = append(head, fmt.Sprint(count))
		}
		rows := [][]string{append(head, "allocations")}
		for _, name := range names {
			row := []string{name}
			fewest, most := "", ""
			for _, count := range e.counts {
				x, ok := r.find(Case{e.name, style.String(), count}, name)
				if !ok {
					row = append(row, "")
					continue
				}
				cell := ratio(x)
				if name == "C, plain" {
					cell = nanos(x.Nanos.Median)
				}
				if e.name == "flood" {
					cell += fmt.Sprintf(", %.2g M/s", float64(count)/x.Nanos.Median*1000)
				}
				row = append(row, cell)
				if most = allocs(x); fewest == "" {
					fewest = most
				}
			}
			if fewest != most {
				fewest += "–" + most
			}
			rows = append(rows, append(row, fewest))
		}
		p.table(rows)
	}
}

func ratio(x Result) string { return times(x.Ratio) }

func nanos(ns float64) string {
	if ns < 1000 {
		return fmt.Sprintf("%.0f ns", ns)
	}
	return fmt.Sprintf("%.3g µs", ns/1000)
}

func allocs(x Result) string {
	if !x.InGo {
		return ""
	}
	return fmt.Sprintf("%.0f", x.Allocs)
}

func calls(x Result) string {
	if x.Calls == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", x.Calls)
}
