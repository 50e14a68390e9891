package supervise

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A State is where a generation is in its life.
type State string

// The states.
const (
	Starting State = "starting" // not ready yet; the one before serves
	Live     State = "live"     // serves
	Draining State = "draining" // was told to stop, finishes what it has begun
	Failed   State = "failed"   // was not ready in time, or died before
)

// Status is what a supervisor tells of itself.
type Status struct {
	Name        string             `json:"name"`
	PID         int                `json:"pid"`
	Version     string             `json:"version"`
	Seconds     float64            `json:"uptime"` // s
	Stopping    bool               `json:"stopping,omitempty"`
	Sockets     []SocketStatus     `json:"sockets"`
	Generations []GenerationStatus `json:"generations"`
}

// SocketStatus is one socket that is held.
type SocketStatus struct {
	Name    string `json:"name,omitempty"`
	Address string `json:"address"`
	Bound   string `json:"bound"`
	FD      int    `json:"fd"`                // its number in the program
	Missing bool   `json:"missing,omitempty"` // its path was removed or replaced: nobody can connect
}

// GenerationStatus is one generation: those that run, and the last one that failed if none was ready since.
type GenerationStatus struct {
	Generation int     `json:"generation"`
	PID        int     `json:"pid"`
	State      State   `json:"state"`
	Seconds    float64 `json:"uptime"` // s, since it was started, to its end if it has ended
	Says       string  `json:"status,omitempty"`
	Failure    string  `json:"failure,omitempty"`
}

// Write writes s for people.
func (s *Status) Write(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	stopping := ""
	if s.Stopping {
		stopping = ", stopping"
	}
	fmt.Fprintf(t, "%s: fdpass %s, pid %d, up %s%s\n", s.Name, s.Version, s.PID, uptime(s.Seconds), stopping)
	for _, k := range s.Sockets {
		what := k.Address
		if k.Bound != "" && !strings.HasSuffix(k.Address, k.Bound) {
			what += " (" + k.Bound + ")"
		}
		if k.Name != "" {
			what = k.Name + "=" + what
		}
		if k.Missing {
			what += "  MISSING: somebody removed or replaced the path"
		}
		fmt.Fprintf(t, "socket %d  %s\n", k.FD, what)
	}
	fmt.Fprintf(t, "GENERATION\tPID\tSTATE\tUP\t\n")
	for _, g := range s.Generations {
		says := g.Says
		if g.Failure != "" {
			says = g.Failure
		}
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\n", g.Generation, g.PID, g.State, uptime(g.Seconds), says)
	}
	return t.Flush()
}

// uptime is for people: 1.2s, 3m5s, 50h.
func uptime(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}
