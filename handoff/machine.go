package handoff

// The two machines of a handoff: the predecessor's and the successor's. They are pure. What happens
// outside comes in as an event, what is to be done goes out as tasks, and the driver in between,
// which has the socket, the timers and the pidfd, decides nothing. So the code that ships is the
// code that is explored: TestExplore runs both machines through every order of messages, deaths and
// late timers.
//
// To own is to have the right to accept. Descriptors cannot be revoked, so the machines see to it
// that never two own, and that whenever everything has come to rest, one does.

// A step is what a machine has reached. The steps are the table in docs/protocol.md and the points at
// which the tests kill.
type step uint8

// The steps, in their order.
const (
	stepHello     step = iota // waits to know who the other is
	stepOffer                 // the items are on their way
	stepAdopted               // the successor has them all and rehearses
	stepReady                 // the successor can serve; the predecessor pauses
	stepCommit                // yours
	stepProbation             // the successor accepts; if it dies, the predecessor takes back
	stepAborting              // the successor has promised not to own and waits for the answer
	stepKilling               // the other does not answer and is being killed
	stepOver                  // see the outcome
	stepCount
)

var stepNames = [stepCount]string{"hello", "offer", "adopted", "ready", "commit", "probation", "aborting", "killing", "over"}

func (s step) String() string { return stepNames[s] }

// A signal is a message without its content.
type signal uint8

const (
	sigNone     signal = iota
	sigHello           // both ways
	sigOffered         // P: all items are sent
	sigAdopted         // S: all have arrived and are what they should be
	sigReady           // S: can serve
	sigCommit          // P: yours; the final state went before it
	sigServing         // S: accepts
	sigReleased        // S: you need not take back any more
	sigDone            // P: cannot take back any more
	sigAbort           // both ways: no. From S it promises never to own while P lives
	sigAborted         // P: the answer to abort; P serves
	signalCount
)

var signalNames = [signalCount]string{"none", "hello", "offered", "adopted", "ready", "commit", "serving", "released", "done", "abort", "aborted"}

func (s signal) String() string { return signalNames[s] }

// An event is what happens to a machine.
type event struct {
	kind   eventKind
	signal signal // of evSignal
	at     step   // of evLocal: the step that this side is through with
}

type eventKind uint8

const (
	evSignal eventKind = iota

	// evEnd: the channel has ended. evExit: the other process is dead, its pidfd says so. evTimeout:
	// the deadline of the step has passed and the other process lives. The driver reads the channel
	// until it is empty before it reports any of them: after a SIGSTOP what is waiting there is older
	// than the deadline.
	evEnd
	evExit
	evTimeout

	evLocal      // this side is through with its own part of the step
	evGiveUp     // the program wants no handoff any more
	evRelease    // the program, a successor, hands on or stops
	evLeave      // the program, a successor that owns, ends whatever its predecessor does
	evKillFailed // the other process could not be killed
)

// A task is what the driver is to do, in the order given.
type task struct {
	do     taskKind
	signal signal // of doSend
}

type taskKind uint8

const (
	doSend   taskKind = iota
	doPause           // P: stop accepting and reading, reversibly; send the final state; then evLocal
	doResume          // P: accept and read again
	doOwn             // S: accept and read
	doDisown          // S: close everything that was adopted
	doKill            // kill the other process through its pidfd
	doLetGo           // P: it is about to give up its right to take back
	doFinish          // the machine is over, the outcome says how
)

var taskNames = [...]string{"send", "pause", "resume", "own", "disown", "kill", "let go", "finish"}

func (t task) String() string {
	if t.do == doSend {
		return "send " + t.signal.String()
	}
	return taskNames[t.do]
}

// An outcome is how a handoff ended for one side.
type outcome uint8

const (
	outRunning  outcome = iota
	outDone             // P has handed over for good; S owns for good
	outKept             // P serves, as before
	outTookBack         // P had handed over and serves again
	outAlone            // S: P died, S owns
	outFresh            // S: P died before S had everything; S may begin afresh
	outStuck            // S: P neither answers nor dies. Nobody but a person can tell whether it will
	outLeft             // S: it ends, and P has not said whether it can take back
)

var outcomeNames = [...]string{"running", "done", "kept", "took back", "alone", "fresh", "stuck", "left"}

func (o outcome) String() string { return outcomeNames[o] }

// A guard is a rule that keeps the machines safe. All are on; the exploration takes out one at a
// time and must find what it prevents.
type guard uint16

const (
	// guardFence: after commit P takes back only when S is dead or has promised not to own. The end of
	// a channel and a timeout are not a death.
	guardFence guard = 1 << iota
	// guardPromise: S, once it has promised not to own, ignores a commit that crossed its promise.
	guardPromise
	// guardAlone: S owns without a commit only when P is dead.
	guardAlone
	// guardResume: P resumes when S goes before the commit.
	guardResume
	// guardTakeBack: P takes back when S dies after the commit.
	guardTakeBack
	// guardHang: P kills an S that has the commit and does not serve.
	guardHang
	// guardKilled: P does not let go of an S that it is killing, whatever that says at its end.
	guardKilled
	// guardInherit: S owns when P dies after S has adopted, also while S waits for the answer to an
	// abort.
	guardInherit
	guardCount = iota
)

// A predecessor is the machine of the side that serves now.
type predecessor struct {
	at         step
	out        outcome
	offered    bool // all items were sent
	paused     bool
	unkillable bool   // S has the commit, hangs, and could not be killed: all there is to do is to wait
	said       signal // by S while it was being killed; it counts if that fails
	off        guard
}

func (p *predecessor) on(g guard) bool { return p.off&g == 0 }

// handle tells the machine what happened and returns what is to be done. An event that means nothing
// in the present step changes nothing: the other side may lie.
func (p *predecessor) handle(e event) []task {
	if p.at == stepOver {
		return nil
	}
	committed := p.at == stepCommit || p.at == stepProbation || p.at == stepKilling
	switch e.kind {
	case evSignal:
		return p.receive(e.signal, committed)
	case evLocal:
		if e.at != p.at {
			return nil // of a step that has come to another end
		}
		switch p.at {
		case stepOffer:
			p.offered = true
			return []task{{do: doSend, signal: sigOffered}}
		case stepReady:
			p.at = stepCommit
			return []task{{do: doSend, signal: sigCommit}}
		}
	case evExit:
		switch {
		case !committed:
			return p.keep(sigNone)
		case p.on(guardTakeBack):
			return p.takeBack()
		}
	case evEnd:
		if !committed {
			return p.keep(sigNone)
		}
		if !p.on(guardFence) {
			return p.takeBack()
		}
	case evTimeout:
		switch p.at {
		case stepCommit:
			if !p.on(guardFence) {
				return p.takeBack()
			}
			if p.on(guardHang) {
				p.at = stepKilling
				return []task{{do: doKill}}
			}
			return nil
		case stepProbation:
			return p.letGo()
		case stepKilling:
			return nil // S's exit is what ends it; or what it says, if it cannot be killed
		}
		return p.keep(sigAbort)
	case evKillFailed:
		p.unkillable = true
		return p.receive(p.said, committed)
	case evGiveUp:
		if !committed {
			return p.keep(sigAbort)
		}
	}
	return nil
}

func (p *predecessor) receive(s signal, committed bool) []task {
	switch {
	case s == sigHello && p.at == stepHello:
		p.at = stepOffer
	case s == sigAdopted && p.at == stepOffer && p.offered:
		p.at = stepAdopted
	case s == sigReady && p.at == stepAdopted:
		p.at, p.paused = stepReady, true
		return []task{{do: doPause}}
	case p.at == stepKilling && !p.unkillable && (s == sigServing || s == sigReleased) && p.on(guardKilled):
		p.said = s
	case s == sigServing && (p.at == stepCommit || p.at == stepKilling):
		p.at = stepProbation
	case s == sigReleased && committed:
		return p.letGo()
	case s == sigAbort && !committed:
		return p.keep(sigAborted)
	case s == sigAbort && p.at != stepProbation:
		// It crossed the commit. S has promised not to own, so this is no less than a death.
		return append(p.takeBack(), task{do: doSend, signal: sigAborted})
	}
	return nil
}

// keep ends a handoff that was not committed. P has owned all the time.
func (p *predecessor) keep(answer signal) []task {
	var tasks []task
	if p.paused && p.on(guardResume) {
		tasks = append(tasks, task{do: doResume})
	}
	if answer != sigNone {
		tasks = append(tasks, task{do: doSend, signal: answer})
	}
	return append(tasks, p.finish(outKept)...)
}

// takeBack ends a handoff that was committed: P owns again.
func (p *predecessor) takeBack() []task {
	return append([]task{{do: doResume}}, p.finish(outTookBack)...)
}

// letGo gives up the right to take back.
func (p *predecessor) letGo() []task {
	return append([]task{{do: doLetGo}, {do: doSend, signal: sigDone}}, p.finish(outDone)...)
}

func (p *predecessor) finish(o outcome) []task {
	p.at, p.out = stepOver, o
	return []task{{do: doFinish}}
}

// A successor is the machine of the side that wants to serve.
type successor struct {
	at       step
	out      outcome
	offered  bool
	adopted  bool
	owner    bool
	released bool
	ended    bool // the channel
	force    bool // kill a predecessor that does not answer
	off      guard
}

func (s *successor) on(g guard) bool { return s.off&g == 0 }

// handle is that of predecessor.
func (s *successor) handle(e event) []task {
	if s.at == stepOver {
		return nil
	}
	switch e.kind {
	case evSignal:
		return s.receive(e.signal)
	case evLocal:
		switch {
		case e.at != s.at:
			return nil
		case s.at == stepOffer && s.offered:
			s.at, s.adopted = stepAdopted, true
			return []task{{do: doSend, signal: sigAdopted}}
		case s.at == stepAdopted:
			s.at = stepReady
			return []task{{do: doSend, signal: sigReady}}
		case s.at == stepCommit:
			s.at = stepProbation
			tasks := []task{{do: doSend, signal: sigServing}}
			if s.released {
				tasks = append(tasks, task{do: doSend, signal: sigReleased})
			}
			return tasks
		}
	case evExit:
		return s.orphaned()
	case evEnd:
		// Not yet a death: a process closes its files before it is dead, and may close them and live.
		s.ended = true
		if s.adopted && !s.owner && !s.on(guardAlone) {
			return s.alone()
		}
	case evTimeout:
		return s.timeout()
	case evKillFailed:
		if s.at == stepKilling {
			return s.lose(outStuck)
		}
	case evGiveUp:
		if s.at <= stepReady {
			return s.abort()
		}
	case evRelease:
		if s.owner && !s.released {
			s.released = true
			if s.at == stepProbation { // before that it follows serving
				return []task{{do: doSend, signal: sigReleased}}
			}
		}
	case evLeave:
		if s.owner {
			return s.finish(outLeft)
		}
	}
	return nil
}

func (s *successor) receive(sig signal) []task {
	switch {
	case sig == sigHello && s.at == stepHello:
		s.at = stepOffer
	case sig == sigOffered && s.at == stepOffer:
		s.offered = true
	case sig == sigCommit && (s.at == stepReady || s.at == stepAborting && !s.on(guardPromise)):
		s.at, s.owner = stepCommit, true
		return []task{{do: doOwn}}
	case sig == sigDone && s.at == stepProbation:
		return s.finish(outDone)
	case (sig == sigAbort || sig == sigAborted) && !s.owner:
		return s.lose(outKept)
	}
	return nil
}

// orphaned: P is dead. What it had been promised or could take back is void.
func (s *successor) orphaned() []task {
	switch {
	case s.owner:
		return s.finish(outDone)
	case !s.adopted:
		return s.lose(outFresh)
	case s.at > stepReady && !s.on(guardInherit):
		return s.lose(outKept)
	}
	return s.alone()
}

func (s *successor) timeout() []task {
	switch s.at {
	case stepHello, stepOffer, stepAdopted, stepReady:
		if s.at == stepReady && !s.on(guardAlone) {
			return s.alone()
		}
		return s.abort()
	case stepAborting:
		if s.ended {
			return s.lose(outKept) // it lives and has closed the channel: it is through with us
		}
		if s.force && s.adopted {
			s.at = stepKilling
			return []task{{do: doKill}}
		}
		return s.lose(outStuck)
	case stepKilling:
		return s.lose(outStuck)
	}
	return nil
}

// abort promises not to own. P may have committed already; its answer says that it has seen this.
func (s *successor) abort() []task {
	s.at = stepAborting
	return []task{{do: doSend, signal: sigAbort}}
}

// lose ends a handoff in which S does not own.
func (s *successor) lose(o outcome) []task {
	return append([]task{{do: doDisown}}, s.finish(o)...)
}

// alone makes S the owner of what it has adopted.
func (s *successor) alone() []task {
	s.owner = true
	return append([]task{{do: doOwn}}, s.finish(outAlone)...)
}

func (s *successor) finish(o outcome) []task {
	s.at, s.out = stepOver, o
	return []task{{do: doFinish}}
}
