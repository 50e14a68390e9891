//go:build linux

package handoff

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

// The exploration runs the machines that ship, without sockets, through every order of messages,
// deaths, stops, kills and late timers. Processes stand in a chain; each is the predecessor of the
// next. It is exhaustive: a breadth-first search over all states of the whole, and the shortest way
// to a bad one is printed.

const (
	maxProcs = 3
	maxQueue = 8
	maxTasks = 3
)

// world is one state of everything. It is comparable.
type world struct {
	procs [maxProcs]proc
	links [maxProcs - 1]link
	spent spent
}

// spent counts what an adversary has done, to bound it.
type spent struct{ crashes, stops, giveUps, releases uint8 }

type proc struct {
	alive, stopped bool
	owner          bool // has the right to accept
	accepting      bool // and does
	lost           bool // has died as the owner, with nobody who could have taken over
	gaveUp         bool // knew that its predecessor was dead and dropped what it had adopted
	killer         bool // has killed its successor
	letGo          bool // let go of the service, and its successor was dead already
	p              predecessor
	s              successor
	pTodo, sTodo   todo
	pLocal, sLocal uint8 // the step + 1 for which evLocal was reported
	pSaw, sSaw     seen
}

// inGame reports whether the process serves, may come to serve, or may take back. One that has handed
// over for good and drains is not.
func (pr *proc) inGame() bool { return pr.alive && (pr.owner || pr.p.out != outDone) }

// seen is what a machine was told about the other side.
type seen struct{ end, exit bool }

type todo struct {
	n     uint8
	tasks [maxTasks]task
}

// link joins process i and i+1. down is from predecessor to successor.
type link struct {
	down, up             queue
	pClosed, sClosed     bool
	killFailP, killFailS bool
}

type queue struct {
	n    uint8
	msgs [maxQueue]signal
}

func (q *queue) push(s signal) {
	q.msgs[q.n] = s // a panic here is a machine that talks too much
	q.n++
}

func (q *queue) pop() signal {
	s := q.msgs[0]
	copy(q.msgs[:], q.msgs[1:])
	q.n--
	q.msgs[q.n] = sigNone
	return s
}

// limits of one exploration.
type limits struct {
	procs                             int
	crashes, stops, giveUps, releases uint8
	force                             bool
	off                               guard
	looseChain                        bool // take out: hand on only when nobody can take back
	looseOrder                        bool // take out: read the channel before believing an exit or a timer
}

func start(l limits) world {
	var w world
	for i := range l.procs {
		pr := &w.procs[i]
		pr.alive = true
		pr.p.off, pr.s.off = l.off, l.off
		pr.s.force = l.force
		if i == 0 {
			pr.owner, pr.accepting = true, true
			pr.s.at, pr.s.out = stepOver, outDone
			continue
		}
		w.links[i-1].up.push(sigHello)
		w.links[i-1].down.push(sigHello)
	}
	return w
}

// next calls found for every state that one thing brings about. rest is true if nothing but an
// adversary or the program can change w any more.
func next(w world, l limits, found func(what string, w world)) (rest bool) {
	rest = true
	must := func(what string, w world) {
		rest = false
		found(what, w)
	}
	for i := range l.procs {
		pr := w.procs[i]
		if !pr.alive {
			continue
		}
		name := string(rune('A' + i))
		if pr.stopped {
			n := w
			n.procs[i].stopped = false
			found(name+" continues", n)
		} else {
			if i < l.procs-1 && pr.p.at != stepOver && (l.looseChain || pr.s.at == stepOver && pr.owner || pr.p.at > stepHello) {
				nextP(w, l, i, name, must, found)
			} else if i < l.procs-1 && pr.pTodo.n > 0 {
				nextP(w, l, i, name, must, found)
			}
			if i > 0 && (pr.s.at != stepOver || pr.sTodo.n > 0) {
				nextS(w, l, i, name, must, found)
			}
			if w.spent.stops < l.stops {
				n := w
				n.spent.stops++
				n.procs[i].stopped = true
				found(name+" is stopped", n)
			}
		}
		if w.spent.crashes < l.crashes {
			n := w
			n.spent.crashes++
			n.die(i, l)
			found(name+" is killed", n)
		}
	}
	return rest
}

// die ends process i. Who dies as the owner while nobody holds a right to take back, or waits with
// everything adopted, takes the service with it; no protocol can help that.
func (w *world) die(i int, l limits) {
	pr := &w.procs[i]
	if pr.owner {
		behind := i > 0 && w.procs[i-1].alive && w.procs[i-1].p.at != stepOver // may take back
		ahead := i < l.procs-1 && w.procs[i+1].alive && w.procs[i+1].s.adopted && w.procs[i+1].s.at != stepOver
		pr.lost = !behind && !ahead
	}
	pr.alive, pr.stopped, pr.owner, pr.accepting = false, false, false, false
	pr.pTodo, pr.sTodo = todo{}, todo{}
	if i > 0 {
		w.links[i-1].sClosed = true
	}
	if i < l.procs-1 {
		w.links[i].pClosed = true
	}
}

// nextP is what the predecessor side of process i may do.
func nextP(w world, l limits, i int, name string, must, may func(string, world)) {
	pr := &w.procs[i]
	if pr.pTodo.n > 0 {
		for _, n := range run(w, l, i, true) {
			must(fmt.Sprintf("%s: %s", name, pr.pTodo.tasks[0]), n)
		}
		return
	}
	tell := func(found func(string, world), what string, e event, change func(*world)) {
		n := w
		if change != nil {
			change(&n)
		}
		p, s := &n.procs[i], &n.procs[i+1]
		could := p.p.out != outDone
		todos(&p.pTodo, p.p.handle(e))
		p.letGo = could && p.p.out == outDone && !s.alive && (p.killer || !s.s.released)
		found(name+" hears: "+what, n)
	}
	k := &w.links[i]
	other := &w.procs[i+1]
	if k.up.n > 0 {
		tell(must, k.up.msgs[0].String(), event{kind: evSignal, signal: k.up.msgs[0]}, func(n *world) { n.links[i].up.pop() })
	}
	if k.up.n == 0 || l.looseOrder {
		if k.sClosed && !pr.pSaw.end {
			tell(must, "end of channel", event{kind: evEnd}, func(n *world) { n.procs[i].pSaw.end = true })
		}
		if !other.alive && !pr.pSaw.exit {
			tell(must, "exit", event{kind: evExit}, func(n *world) { n.procs[i].pSaw.exit = true })
		}
		if other.alive || l.looseOrder {
			tell(must, "timeout", event{kind: evTimeout}, nil)
		}
	}
	if k.killFailP {
		tell(must, "kill failed", event{kind: evKillFailed}, func(n *world) { n.links[i].killFailP = false })
	}
	if (pr.p.at == stepOffer || pr.p.at == stepReady) && pr.pLocal != uint8(pr.p.at)+1 {
		tell(must, "own part of "+pr.p.at.String()+" is done", event{kind: evLocal, at: pr.p.at}, func(n *world) { n.procs[i].pLocal = uint8(pr.p.at) + 1 })
	}
	if w.spent.giveUps < l.giveUps {
		tell(may, "give up", event{kind: evGiveUp}, func(n *world) { n.spent.giveUps++ })
	}
}

// nextS is what the successor side of process i may do.
func nextS(w world, l limits, i int, name string, must, may func(string, world)) {
	pr := &w.procs[i]
	if pr.sTodo.n > 0 {
		for _, n := range run(w, l, i, false) {
			must(fmt.Sprintf("%s: %s", name, pr.sTodo.tasks[0]), n)
		}
		return
	}
	tell := func(found func(string, world), what string, e event, change func(*world)) {
		n := w
		if change != nil {
			change(&n)
		}
		s := &n.procs[i].s
		todos(&n.procs[i].sTodo, s.handle(e))
		n.procs[i].gaveUp = e.kind == evExit && s.adopted && s.at == stepOver && !s.owner
		found(name+" hears: "+what, n)
	}
	k := &w.links[i-1]
	other := &w.procs[i-1]
	if k.down.n > 0 {
		tell(must, k.down.msgs[0].String(), event{kind: evSignal, signal: k.down.msgs[0]}, func(n *world) { n.links[i-1].down.pop() })
	}
	if k.down.n == 0 || l.looseOrder {
		if k.pClosed && !pr.sSaw.end {
			tell(must, "end of channel", event{kind: evEnd}, func(n *world) { n.procs[i].sSaw.end = true })
		}
		if !other.alive && !pr.sSaw.exit {
			tell(must, "exit", event{kind: evExit}, func(n *world) { n.procs[i].sSaw.exit = true })
		}
		if other.alive || l.looseOrder {
			tell(must, "timeout", event{kind: evTimeout}, nil)
		}
	}
	if k.killFailS {
		tell(must, "kill failed", event{kind: evKillFailed}, func(n *world) { n.links[i-1].killFailS = false })
	}
	if (pr.s.at == stepOffer && pr.s.offered || pr.s.at == stepAdopted || pr.s.at == stepCommit) && pr.sLocal != uint8(pr.s.at)+1 {
		tell(must, "own part of "+pr.s.at.String()+" is done", event{kind: evLocal, at: pr.s.at}, func(n *world) { n.procs[i].sLocal = uint8(pr.s.at) + 1 })
	}
	if w.spent.giveUps < l.giveUps {
		tell(may, "give up", event{kind: evGiveUp}, func(n *world) { n.spent.giveUps++ })
	}
	// A process that somebody waits to take over from releases its own predecessor.
	wanted := i < l.procs-1 && w.procs[i+1].alive && pr.s.at == stepProbation && !pr.s.released
	if wanted {
		tell(must, "release", event{kind: evRelease}, nil)
	} else if w.spent.releases < l.releases {
		tell(may, "release", event{kind: evRelease}, func(n *world) { n.spent.releases++ })
	}
}

func todos(t *todo, tasks []task) {
	for _, k := range tasks {
		t.tasks[t.n] = k
		t.n++
	}
}

// run does the first task of process i. A kill may fail.
func run(w world, l limits, i int, asP bool) []world {
	pr := &w.procs[i]
	td := &pr.sTodo
	if asP {
		td = &pr.pTodo
	}
	t := td.tasks[0]
	copy(td.tasks[:], td.tasks[1:])
	td.n--
	td.tasks[td.n] = task{}
	switch t.do {
	case doSend:
		if asP {
			if t.signal == sigCommit {
				pr.owner, pr.accepting = false, false
			}
			if !w.links[i].pClosed && w.procs[i+1].alive {
				w.links[i].down.push(t.signal)
			}
		} else if !w.links[i-1].sClosed && w.procs[i-1].alive {
			w.links[i-1].up.push(t.signal)
		}
	case doPause:
		pr.accepting = false
	case doResume, doOwn:
		pr.owner, pr.accepting = true, true
	case doDisown:
	case doKill:
		failed := w
		if asP {
			failed.links[i].killFailP = true
			pr.killer = true
			w.die(i+1, l)
		} else {
			failed.links[i-1].killFailS = true
			w.die(i-1, l)
		}
		return []world{w, failed}
	case doFinish:
		if asP {
			w.links[i].pClosed = true
			break
		}
		w.links[i-1].sClosed = true
		switch pr.s.out {
		case outFresh:
			// A fresh start gets the lock if nobody else has a copy of it.
			for j := range l.procs {
				if j != i && w.procs[j].inGame() {
					w.die(i, l)
					return []world{w}
				}
			}
			pr.owner, pr.accepting = true, true
		case outKept, outStuck:
			if !pr.s.owner {
				w.die(i, l) // the program ends: there is nothing for it to do
			}
		}
	}
	return []world{w}
}

// check returns what is wrong with w.
func check(w world, l limits, rest bool) string {
	owners, alive, lost := 0, 0, false
	excused := false
	for i := range l.procs {
		pr := &w.procs[i]
		lost = lost || pr.lost
		if pr.gaveUp {
			return "its predecessor is dead, and it gives up what it has"
		}
		if pr.letGo {
			return "its successor is dead, and it lets go"
		}
		if !pr.inGame() {
			continue
		}
		alive++
		if !pr.owner {
			continue
		}
		owners++
		if !rest || pr.accepting && !pr.stopped {
			continue
		}
		// An owner that hangs: nobody can know it of one that has said that it serves, or that has not
		// been asked to hand over; nobody may kill a hung predecessor without being told to.
		switch {
		case !pr.stopped:
			return "at rest the owner does not accept"
		case i > 0 && pr.s.at == stepCommit && w.procs[i-1].alive && !w.procs[i-1].p.unkillable && !w.procs[i-1].stopped:
			return "at rest a hung process owns, and its predecessor could have killed it"
		case l.force && i < l.procs-1 && w.procs[i+1].alive && w.procs[i+1].s.at != stepOver && !w.procs[i+1].stopped:
			return "at rest a hung process owns, and its successor was told to kill it"
		}
		excused = true
	}
	switch {
	case owners > 1:
		return "two own"
	case rest && alive > 0 && owners == 0 && !lost && !excused && !anyStopped(w, l):
		return "at rest nobody owns"
	}
	return ""
}

func anyStopped(w world, l limits) bool {
	for i := range l.procs {
		if w.procs[i].stopped {
			return true
		}
	}
	return false
}

// explore visits every state that can be reached and returns how many there are, and the shortest way
// to a bad one.
func explore(l limits) (states int, counterexample string) {
	type from struct {
		at   int32
		what string
	}
	first := start(l)
	index := map[world]int32{first: 0}
	order := []world{first}
	way := []from{{-1, "start"}}
	for at := 0; at < len(order); at++ {
		w := order[at]
		rest := next(w, l, func(what string, n world) {
			if _, ok := index[n]; ok {
				return
			}
			index[n] = int32(len(order))
			order = append(order, n)
			way = append(way, from{int32(at), what})
		})
		// A timeout that changes nothing is no way on.
		if !rest {
			rest = true
			next(w, l, func(what string, n world) {
				if n != w && !optional(what) {
					rest = false
				}
			})
		}
		if bad := check(w, l, rest); bad != "" {
			var steps []string
			for i := int32(at); i >= 0; i = way[i].at {
				steps = append([]string{way[i].what}, steps...)
			}
			return len(order), bad + ":\n\t" + strings.Join(steps, "\n\t")
		}
	}
	return len(order), ""
}

// optional: what only an adversary or a program does.
func optional(what string) bool {
	for _, s := range []string{"continues", "is stopped", "is killed", "hears: give up"} {
		if strings.HasSuffix(what, s) {
			return true
		}
	}
	return false
}

// full explores chains with two adversities at once: millions of states, minutes and gigabytes.
var full = flag.Bool("explore", false, "explore chains of three with two adversities")

func TestExplore(t *testing.T) {
	rows := []struct {
		name string
		l    limits
	}{
		{"two", limits{procs: 2, crashes: 2, stops: 2, giveUps: 2, releases: 1}},
		{"two, forced", limits{procs: 2, crashes: 1, stops: 2, giveUps: 1, releases: 1, force: true}},
		{"a chain of three, one dies", limits{procs: 3, crashes: 1}},
		{"a chain of three, one hangs", limits{procs: 3, stops: 1}},
	}
	if *full {
		rows = append(rows, struct {
			name string
			l    limits
		}{"a chain of three, two die", limits{procs: 3, crashes: 2}}, struct {
			name string
			l    limits
		}{"a chain of three, one dies and one hangs", limits{procs: 3, crashes: 1, stops: 1}})
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			states, bad := explore(row.l)
			t.Logf("%d states", states)
			if bad != "" {
				t.Error(bad)
			}
		})
	}
}

// Every guard is needed: without it the search finds what it prevents.
func TestExploreWithoutGuard(t *testing.T) {
	two := limits{procs: 2, crashes: 1, stops: 1, giveUps: 1, releases: 1}
	three := limits{procs: 3, crashes: 1}
	without := map[string]limits{}
	for i := range guardCount {
		l := two
		l.off = 1 << i
		without[fmt.Sprintf("guard %d", i)] = l
	}
	loose := three
	loose.looseOrder = true
	without["the channel is read before an exit is believed"] = loose
	loose = three
	loose.looseChain = true
	without["a successor hands on only when nobody can take back"] = loose
	for name, l := range without {
		t.Run(name, func(t *testing.T) {
			states, bad := explore(l)
			if bad == "" {
				t.Errorf("%d states, and none is bad: the guard is not needed", states)
			}
			t.Logf("%d states\n%s", states, bad)
		})
	}
}
