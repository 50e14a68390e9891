package handoff

import "time"

// Deadlines bound every wait of a handoff. A zero field is its default.
type Deadlines struct {
	// Hello: until each side knows the other, from the connection on. 5 s.
	Hello time.Duration

	// Offer: until the successor has all items. 30 s.
	Offer time.Duration

	// Rehearse: until the successor is ready, after it has all. The predecessor serves meanwhile. 60 s.
	Rehearse time.Duration

	// MaxPause: the predecessor's pause, in which nobody accepts, until it says "yours". 100 ms.
	MaxPause time.Duration

	// Commit: the successor waits so long for "yours" after it has said that it is ready; the
	// predecessor so long for the successor to accept after that, and then kills it. 5 s.
	Commit time.Duration

	// Probation: the predecessor stays so long able to take back, after the successor accepts. 1 s.
	Probation time.Duration

	// Answer: until an abort or a release is answered, or a death is told. 2 s.
	Answer time.Duration
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// defaults is a variable for tests, which wait for slow machines.
var defaults = Deadlines{
	Hello:     5 * time.Second,
	Offer:     30 * time.Second,
	Rehearse:  time.Minute,
	MaxPause:  100 * time.Millisecond,
	Commit:    5 * time.Second,
	Probation: time.Second,
	Answer:    2 * time.Second,
}

func (d Deadlines) withDefaults() Deadlines {
	return Deadlines{
		Hello:     orDefault(d.Hello, defaults.Hello),
		Offer:     orDefault(d.Offer, defaults.Offer),
		Rehearse:  orDefault(d.Rehearse, defaults.Rehearse),
		MaxPause:  orDefault(d.MaxPause, defaults.MaxPause),
		Commit:    orDefault(d.Commit, defaults.Commit),
		Probation: orDefault(d.Probation, defaults.Probation),
		Answer:    orDefault(d.Answer, defaults.Answer),
	}
}

// handoff is how long a whole one may take.
func (d Deadlines) handoff() time.Duration {
	return d.Hello + d.Offer + d.Rehearse + d.MaxPause + d.Commit + d.Probation + d.Answer
}

// ofPredecessor is how long the predecessor waits in a step; 0 is for ever.
func (d Deadlines) ofPredecessor(s step) time.Duration {
	switch s {
	case stepHello:
		return d.Hello
	case stepOffer:
		return d.Offer
	case stepAdopted:
		return d.Rehearse
	case stepReady:
		return d.MaxPause
	case stepCommit:
		return d.Commit
	case stepProbation:
		return d.Probation
	}
	return 0
}

// ofSuccessor is how long the successor waits in a step; 0 is for ever.
func (d Deadlines) ofSuccessor(s step) time.Duration {
	switch s {
	case stepHello:
		return d.Hello
	case stepOffer:
		return d.Offer
	case stepReady:
		return d.Commit
	case stepAborting, stepKilling:
		return d.Answer
	}
	return 0
}
