package main

import (
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/load"
)

// Generation 1, pid 100, kills itself after a second; who serves after it began afresh 20 ms later.
func TestBlame(t *testing.T) {
	cut, reset := errors.WithMessage(io.ErrUnexpectedEOF, "waiting for the answer"), os.NewSyscallError("read", syscall.ECONNRESET)
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	before, at := 900*ms, 1001*ms
	for _, tt := range []struct {
		name     string
		step     string
		pid      int // that was killed
		failures []load.Failure
		want     [3]int // failed, died, refused
	}{
		{"answered by the killed", "paused", 100, []load.Failure{{At: at, Err: reset, Connected: before, Last: 100}}, [3]int{0, 1, 0}},
		{"answered by another", "paused", 100, []load.Failure{{At: at, Err: reset, Connected: before, Last: 200}}, [3]int{1, 0, 0}},
		{"not answered yet", "paused", 100, []load.Failure{{At: at, Err: cut, Connected: before}}, [3]int{0, 1, 0}},
		{"not answered yet, twice", "paused", 100, []load.Failure{{At: at, Err: cut, Connected: before}, {At: at + ms, Err: cut, Connected: at}}, [3]int{1, 1, 0}},
		{"two clients", "paused", 100, []load.Failure{{At: at, Err: cut, Connected: before}, {At: at, Client: 1, Err: cut, Connected: before}}, [3]int{0, 2, 0}},
		{"before the kill", "paused", 100, []load.Failure{{At: 999 * ms, Err: cut, Connected: before}}, [3]int{1, 0, 0}},
		{"long after", "paused", 100, []load.Failure{{At: 1300 * ms, Err: cut, Connected: before}}, [3]int{1, 0, 0}},
		{"no answer in time", "paused", 100, []load.Failure{{At: at, Err: os.ErrDeadlineExceeded, Connected: before, Last: 100}}, [3]int{1, 0, 0}},
		{"refused", "paused", 100, []load.Failure{{At: at, Err: refused}}, [3]int{1, 0, 0}},
		{"refused while nobody had the socket", "offering", 100, []load.Failure{{At: at, Err: refused}}, [3]int{0, 0, 1}},
		{"refused afterwards", "offering", 100, []load.Failure{{At: 1400 * ms, Err: refused}}, [3]int{1, 0, 0}},
		{"the killed never served", "ready", 200, []load.Failure{{At: at, Err: cut, Connected: before}}, [3]int{1, 0, 0}},
	} {
		r := sampleTrial()
		r.generations = r.generations[:1]
		r.kill.step = tt.step
		r.load.Begin = time.Now()
		r.killed = &event{PID: tt.pid, At: r.load.Begin.Add(time.Second)}
		r.afresh = &event{PID: 300, At: r.load.Begin.Add(1020 * ms)}
		r.load.Clients[0].Failures = tt.failures
		if b := r.blame(); [3]int{len(b.failed), len(b.died), len(b.refused)} != tt.want {
			t.Errorf("%s: %+v", tt.name, b)
		}
	}
}
