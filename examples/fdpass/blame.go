package main

import (
	"io"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/load"
)

// killMoment is for how long after a process has said that it is about to kill itself it may still live,
// and for how long its clients may take to notice. The tests give a machine that does much else longer.
var killMoment = 250 * time.Millisecond

// A blame is what the failures of a load come from.
type blame struct {
	failed []load.Failure // the service's: there must be none

	// What a process that killed itself was answering. On a connection on which it gave the last answer, that
	// is sure. On one without an answer, or with one of a generation before, from which the connection may
	// have moved, it is a guess from the time, and so it is one for each client at most.
	died []load.Failure

	// What was asked while nobody had the socket, after a predecessor died that had not yet passed it.
	refused []load.Failure
}

// blame tells what nobody was left to answer from what the service has lost.
func (r *trial) blame() (b blame) {
	cut := map[int]bool{}
	for _, f := range r.load.Failures() {
		switch {
		case r.killed == nil:
			b.failed = append(b.failed, f)
		case r.died(f) && (f.Last == r.killed.PID || !cut[f.Client]):
			cut[f.Client] = true
			b.died = append(b.died, f)
		case r.refused(f):
			b.refused = append(b.refused, f)
		default:
			b.failed = append(b.failed, f)
		}
	}
	return b
}

// died reports whether f was on a connection that was cut because its process killed itself.
func (r *trial) died(f load.Failure) bool {
	at := r.killed.At.Sub(r.load.Begin)
	killed, last := r.find(r.killed.PID), r.find(f.Last)
	switch {
	case killed == nil: // it never accepted anything
		return false
	case f.Connected == 0 || !isAny(f.Err, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE):
		return false
	case f.Last == 0, last != nil && last.number < killed.number:
		return f.At >= at && f.At <= at+killMoment && f.Connected <= at+killMoment
	}
	return f.Last == r.killed.PID && f.At >= at
}

func (r *trial) refused(f load.Failure) bool {
	if r.kill.step != "offering" || r.afresh == nil {
		return false
	}
	from, to := r.killed.At.Sub(r.load.Begin), r.afresh.At.Sub(r.load.Begin)
	return f.At >= from && f.At <= to+killMoment && isAny(f.Err, syscall.ECONNREFUSED, syscall.ECONNRESET)
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
