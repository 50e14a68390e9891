package handoff

import (
	"errors"
	"fmt"
)

var (
	// ErrKept: no handoff took place, the predecessor serves as before.
	ErrKept = errors.New("handoff: the predecessor keeps serving")

	// ErrTookBack: the successor died, or gave up, after the service had been handed over to it, and the
	// predecessor serves again.
	ErrTookBack = errors.New("handoff: the successor failed and the predecessor took back")

	// ErrPredecessorGone: the predecessor died before the successor had everything. Begin afresh.
	ErrPredecessorGone = errors.New("handoff: the predecessor died before it had handed over")

	// ErrPredecessorHung: the predecessor lives and does not answer. It was left alone; should it go on,
	// it serves.
	ErrPredecessorHung = errors.New("handoff: the predecessor does not answer")

	// ErrStateLost, of [Service.Final]: the predecessor died before its final state had come. The successor
	// serves, with everything but that.
	ErrStateLost = errors.New("handoff: the predecessor's final state was lost")

	// ErrVersion: the other side speaks other versions of the protocol.
	ErrVersion = errors.New("no common version of the protocol")

	// ErrName: the other side is another service.
	ErrName = errors.New("another service")

	// ErrProtocol: the other side broke a rule of the protocol or a limit.
	ErrProtocol = errors.New("the other side breaks the protocol")

	// ErrUnpinned: the other side cannot be pinned by a pidfd (before Linux 6.5, in a pid namespace that
	// is not visible here, or with EMFILE for want of a descriptor), so nobody could tell its death from
	// its silence.
	ErrUnpinned = errors.New("the other side cannot be pinned by a pidfd")

	// ErrOutside: the successor is not in the unit of the predecessor, which a service manager watches, so
	// the manager would not know it, or end it with the unit.
	ErrOutside = errors.New("the successor is outside the unit")

	// ErrItem: an item is not what its manifest says.
	ErrItem = errors.New("an item is not what it should be")
)

// errNoPaths: only Linux tells who is at the other end.
var errNoPaths = fmt.Errorf("handoff: Options.Socket on this system: %w", errors.ErrUnsupported)
