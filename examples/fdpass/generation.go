package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/handoff"
)

// What surrounds the server in its process: where it is to find its predecessor, what it says, and when it
// is to die. What happens to it, it says in lines of JSON on its standard output, which all generations have.

// In the environment of a server process are the mode, which makes it one, and the folder that it
// shares with all others.
const (
	modeVariable   = "FDPASS_MODE"
	folderVariable = "FDPASS_FOLDER"
)

// A mode is how a successor comes to be.
type mode string

const (
	child    mode = "child"    // the server starts it, on SIGHUP
	takeover mode = "takeover" // somebody else does, and it finds the server at a path
)

// serverProcess is the main function of a generation.
func serverProcess(m mode) error {
	addr := ""
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	go func() {
		// The pipe ends when the program that started the first generation does.
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
	s := new(server)
	o := handoff.Options{Name: "fdpass", Events: s.tell}
	o.Deadlines.Probation = 100 * time.Millisecond // kept-alive connections move after it, and generations are short-lived here
	if m == takeover {
		o.Socket = filepath.Join(os.Getenv(folderVariable), "socket")
	} else {
		o.UpgradeSignals = []os.Signal{syscall.SIGHUP}
	}
	return errors.WithMessagef(s.run(context.Background(), addr, o), "generation %d, pid %d", s.generation, os.Getpid())
}

// An event is a line on standard output: one of the service's events, or one of those below.
type event struct {
	Event      handoff.EventKind
	At         time.Time
	PID        int           // who says it
	Generation uint64        `json:",omitempty"`
	Addr       string        `json:",omitempty"`
	Took       time.Duration `json:",omitempty"`
	Cut        int           `json:",omitempty"` // drained
	Requests   int64         `json:",omitempty"` // so many were answered until now
	Error      string        `json:",omitempty"`
}

const (
	eventKilled handoff.EventKind = "killed" // it is about to kill itself
	eventExited handoff.EventKind = "exited" // said by the program that started it
)

// tell is the handoff's Options.Events.
func (s *server) tell(e handoff.Event) {
	line := event{Event: e.Kind, Generation: s.generation, Addr: s.addr, Took: e.Took, Requests: s.requests.Load()}
	if e.Kind == handoff.EventDrained {
		line.Cut = e.Count
	}
	if e.Err != nil {
		line.Error = e.Err.Error()
	}
	if e.Kind == handoff.EventServing {
		// After the drain the service heeds SIGTERM no more, and the one from our own pipe must not end us then.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	}
	say(line)
	reached(string(e.Kind))
}

func say(e event) {
	e.At, e.PID = time.Now(), os.Getpid()
	_ = json.NewEncoder(os.Stdout).Encode(e) // one write(2), so lines of two generations do not mix
}

// A kill is a step at which one of two generations kills itself. The steps are events of package handoff,
// but for ready, which is just before Service.Ready.
type kill struct{ who, step string }

// kills are all there are. At a later one the dead would leave nobody.
var kills = []kill{
	{"successor", "adopted"}, {"successor", "ready"}, {"successor", "serving"},
	{"predecessor", "offering"}, {"predecessor", "paused"}, {"predecessor", "handed over"},
}

func (k kill) String() string {
	if k.step == "" {
		return ""
	}
	return k.who + "@" + strings.ReplaceAll(k.step, " ", "-")
}

// Set is flag.Value's.
func (k *kill) Set(s string) error {
	i := slices.IndexFunc(kills, func(k kill) bool { return k.String() == s })
	if i < 0 {
		return errors.Errorf("it is one of %v", kills)
	}
	*k = kills[i]
	return nil
}

// order has the server that serves now, or its next successor, kill itself.
func (k kill) order(folder string, serves int) error {
	return os.WriteFile(filepath.Join(folder, "kill"), fmt.Appendf(nil, "%d %s %s", serves, k.who, k.step), 0o600)
}

// reached kills this process if that was ordered for this step. Who removes the order obeys it, so nobody
// else will.
func reached(step string) {
	order := filepath.Join(os.Getenv(folderVariable), "kill")
	b, err := os.ReadFile(order)
	if err != nil {
		return
	}
	who := "successor"
	if strings.HasPrefix(string(b), fmt.Sprint(os.Getpid(), " ")) {
		who = "predecessor"
	}
	if strings.HasSuffix(string(b), " "+who+" "+step) && os.Remove(order) == nil {
		say(event{Event: eventKilled})
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
