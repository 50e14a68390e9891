package main

import "fmt"

// A goal is a ratio that a contender of ours should not exceed.
type goal struct {
	what      string
	c         Case
	contender string
	limit     float64
	allocs    float64 // at most; -1: any
	rival     string  // limit is then a part of this contender's ratio
}

const inStream = "SOCK_STREAM"

var goals = []goal{
	{"raw, 1 descriptor, outside the poller", Case{"message", inStream, 1}, "fdkit raw, lazy", 1.10, 0, ""},
	{"raw, 1, in the poller", Case{"message", inStream, 1}, "fdkit raw", 1.20, 0, ""},
	{"raw, 16", Case{"message", inStream, 16}, "fdkit raw, lazy", 0.85, 0, ""},
	{"raw, 64", Case{"message", inStream, 64}, "fdkit raw, lazy", 0.70, 0, ""},
	{"raw, 253", Case{"message", inStream, 253}, "fdkit raw, lazy", 0.65, 0, ""},
	{"batches, 1", Case{"message", inStream, 1}, "fdkit raw, batches of 8", 0.75, 0, ""},
	{"Send and Receive, 1", Case{"message", inStream, 1}, "fdkit Send/Receive, lazy", 1.35, 3, ""},
	{"a pair as plain ends", Case{"pair", inStream, 0}, "fdkit scm.Pair", 1.10, -1, ""},
	{"a pair of *net.UnixConn, to os.NewFile and net.FileConn", Case{"pair", inStream, 0}, "fdkit socketpair.New", 1.00, -1, "unix.Socketpair + net.FileConn"},
	{"SO_PEERCRED", Case{"peer", inStream, 0}, "fdkit credentials.Peer", 1.15, 0, ""},
	{"Exchange", Case{"exchange", inStream, 0}, "fdkit credentials.Exchange", 1.20, -1, ""},
	{"flood of 253, descriptors in a second to those of C (4 M to 2.6 M)", Case{"flood", inStream, 253}, "fdkit raw", 0.65, -1, ""},
}

// goals writes how far we are from each goal.
func (r *Report) goals(p *page) {
	rows := [][]string{{"goal", "at most", "measured", ""}}
	for _, g := range goals {
		x, ok := r.find(g.c, g.contender)
		if !ok {
			continue
		}
		got := x.Ratio.Median
		if g.rival != "" {
			rival, ok := r.find(g.c, g.rival)
			if !ok {
				continue
			}
			got /= rival.Ratio.Median
		}
		wanted, measured := fmt.Sprintf("%.2f", g.limit), fmt.Sprintf("%.2f", got)
		met := verdict(got, g.limit)
		if g.allocs >= 0 {
			wanted += fmt.Sprintf(", %.0f allocations", g.allocs)
			measured += fmt.Sprintf(", %.0f", x.Allocs)
			if x.Allocs > g.allocs+0.5 {
				met = missed
			}
		}
		rows = append(rows, []string{g.what, wanted, measured, met})
	}
	for _, warm := range []bool{true, false} {
		limit := map[bool]float64{true: 1.3, false: 2}[warm]
		if x, ok := r.transfer(connections, 10000, "fdkit handoff", warm); ok {
			rows = append(rows, []string{"10 000 connections handed over and acknowledged, " + temperature(warm),
				fmt.Sprintf("%.2f", limit), fmt.Sprintf("%.2f", x.Ratio.Median), verdict(x.Ratio.Median, limit)})
		}
	}
	if x, ok := r.transfer(listeners, 1, "fdkit handoff", false); ok {
		rows = append(rows, milliseconds("a listener, from the connection until it accepts", 1, x.Last.Median/1e6))
	}
	for _, x := range r.Restarts {
		if x.Technique != techniques[0].name || x.Skipped != "" {
			continue
		}
		what := fmt.Sprintf("%d upgrades, %s: ", x.Upgrades, x.Mode)
		rows = append(rows, []string{what + "failed requests", "0", fmt.Sprint(x.Failed), verdict(float64(x.Failed), 0)})
		if x.Mode == manyLive.name {
			rows = append(rows, milliseconds(what+"slowest request", 65, x.Slowest))
		} else {
			rows = append(rows, []string{what + "p99.9 around them, to steady running", "1.25", fmt.Sprintf("%.2f", x.Around/x.Away), verdict(x.Around/x.Away, 1.25)})
		}
	}
	if len(rows) > 1 {
		p.line("### Goals\n")
		p.table(rows)
	}
}

func milliseconds(what string, limit, got float64) []string {
	return []string{what, fmt.Sprintf("%.0f ms", limit), fmt.Sprintf("%.3g ms", got), verdict(got, limit)}
}

const missed = "missed"

// verdict compares as it is printed.
func verdict(got, limit float64) string {
	if got < limit+0.005 {
		return "met"
	}
	return missed
}
