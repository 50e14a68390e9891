package main

import (
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/load"
)

// Each of our techniques replaces its server, and the load sees all that the server answers. That nothing is lost
// is a promise of ours, which does not depend on the machine.
func TestRestart(t *testing.T) {
	for _, technique := range techniques[:3] {
		for _, kind := range []load.Kind{load.New, load.KeepAlive} {
			var r restartRun
			if err := restart(technique, loadMode{kind: kind, clients: 2, rest: restPause}, 2, &r); err != nil {
				t.Fatal(technique.name, err)
			}
			if len(r.accepting) != 2 || r.requests < 10 || len(r.around) == 0 || len(r.away) == 0 {
				t.Errorf("%s, %v: %d upgrades, %d requests, %d around, %d away", technique.name, kind, len(r.accepting), r.requests, len(r.around), len(r.away))
			}
			if technique.name != "tableflip + Shutdown" && r.failed != 0 {
				t.Errorf("%s, %v: %d of %d failed: %v", technique.name, kind, r.failed, r.requests, r.errors)
			}
		}
	}
}

func TestAround(t *testing.T) {
	ms := time.Millisecond
	l := &load.Load{Clients: []*load.Client{{
		Samples:  []load.Sample{{Start: 10 * ms, Took: 1000}, {Start: 95 * ms, Took: 9000}, {Start: 120 * ms, Took: 2000}, {Start: 300 * ms, Took: 3000}},
		Failures: []load.Failure{{At: 110 * ms, Err: errCount}},
	}}}
	var r restartRun
	r.add(l, []window{{100 * ms, 150 * ms}})
	if r.requests != 5 || r.failed != 1 || len(r.errors) != 1 {
		t.Errorf("%d requests, %d failed, %v", r.requests, r.failed, r.errors)
	}
	if around, away := percentile(r.around, 99.9), percentile(r.away, 99.9); around != 9 || away != 3 || len(r.around) != 2 {
		t.Errorf("around %v of %d, away %v", around, len(r.around), away)
	}
}
