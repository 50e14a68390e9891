package main

import (
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
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
		failures []failure
		want     [3]int // failed, died, refused
	}{
		{"answered by the killed", "paused", 100, []failure{{at: at, err: reset, connected: before, last: 100}}, [3]int{0, 1, 0}},
		{"answered by another", "paused", 100, []failure{{at: at, err: reset, connected: before, last: 200}}, [3]int{1, 0, 0}},
		{"not answered yet", "paused", 100, []failure{{at: at, err: cut, connected: before}}, [3]int{0, 1, 0}},
		{"not answered yet, twice", "paused", 100, []failure{{at: at, err: cut, connected: before}, {at: at + ms, err: cut, connected: at}}, [3]int{1, 1, 0}},
		{"two clients", "paused", 100, []failure{{at: at, err: cut, connected: before}, {at: at, client: 1, err: cut, connected: before}}, [3]int{0, 2, 0}},
		{"before the kill", "paused", 100, []failure{{at: 999 * ms, err: cut, connected: before}}, [3]int{1, 0, 0}},
		{"long after", "paused", 100, []failure{{at: 1300 * ms, err: cut, connected: before}}, [3]int{1, 0, 0}},
		{"no answer in time", "paused", 100, []failure{{at: at, err: os.ErrDeadlineExceeded, connected: before, last: 100}}, [3]int{1, 0, 0}},
		{"refused", "paused", 100, []failure{{at: at, err: refused}}, [3]int{1, 0, 0}},
		{"refused while nobody had the socket", "offering", 100, []failure{{at: at, err: refused}}, [3]int{0, 0, 1}},
		{"refused afterwards", "offering", 100, []failure{{at: 1400 * ms, err: refused}}, [3]int{1, 0, 0}},
		{"the killed never served", "ready", 200, []failure{{at: at, err: cut, connected: before}}, [3]int{1, 0, 0}},
	} {
		r := sampleTrial()
		r.generations = r.generations[:1]
		r.kill.step = tt.step
		r.load.begin = time.Now()
		r.killed = &event{PID: tt.pid, At: r.load.begin.Add(time.Second)}
		r.afresh = &event{PID: 300, At: r.load.begin.Add(1020 * ms)}
		r.load.clients[0].failures = tt.failures
		if b := r.blame(); [3]int{len(b.failed), len(b.died), len(b.refused)} != tt.want {
			t.Errorf("%s: %+v", tt.name, b)
		}
	}
}
