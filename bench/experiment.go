package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/fdkit/fdkit/socketpair"
)

// A Case is what all contenders did, in one place of an experiment.
type Case struct {
	Experiment string `json:"experiment"`
	Style      string `json:"style"`
	Count      int    `json:"descriptors"` // in a message
}

func (c Case) String() string { return fmt.Sprintf("%s/%s/%d", c.Experiment, c.Style, c.Count) }

func (c Case) style() socketpair.Style {
	i := slices.IndexFunc(styles, func(s socketpair.Style) bool { return s.String() == c.Style })
	return styles[i]
}

// An experiment is one question to all contenders that can answer it.
type experiment struct {
	name, title string
	about       string
	styles      []socketpair.Style
	counts      []int // {0} if the operation carries no descriptors
	subjects    func(style socketpair.Style, count int) ([]subject, error)
}

var (
	styles = []socketpair.Style{socketpair.Stream, socketpair.SeqPacket, socketpair.Datagram}
	counts = []int{1, 4, 16, 64, 253}
	single = []int{0}
	stream = styles[:1]
)

var experiments = []experiment{
	{"message", "One message", "Send, receive and close, one message after the other, on one goroutine or thread.",
		styles, counts, messages},
	{"goroutines", "Two goroutines", "A message there and one back, each received and closed, between two goroutines; in C between two threads.",
		styles, counts, pingPong},
	{"processes", "Two processes", "The same between two processes.",
		styles, counts, betweenProcesses},
	{"flood", "Flood", "One process sends as fast as it can, the other one receives and closes; the time is the receiver's for a message.",
		styles, counts, floods},
	{"pair", "A pair", "Make a connected pair and close it.",
		stream, single, func(socketpair.Style, int) ([]subject, error) { return pairs() }},
	{"peer", "Who is there", "SO_PEERCRED of an end of a pair.",
		stream, single, func(socketpair.Style, int) ([]subject, error) { return peers() }},
	{"exchange", "Who is there now", "Two processes prove to each other who they are; in C with the same system calls.",
		stream, single, func(socketpair.Style, int) ([]subject, error) { return exchanges() }},
}

func (e *experiment) cases() (all []Case) {
	for _, style := range e.styles {
		for _, count := range e.counts {
			all = append(all, Case{e.name, style.String(), count})
		}
	}
	return all
}

// run measures a case.
func (e *experiment) run(c Case, rounds int, slice time.Duration) ([]Result, error) {
	if err := e.possible(); err != nil {
		return nil, err
	}
	subjects, err := e.subjects(c.style(), c.Count)
	if err != nil {
		return nil, err
	}
	return measure(c, subjects, rounds, slice)
}

// possible returns why an experiment cannot be made here, or nil.
func (e *experiment) possible() error {
	if e.name == "flood" && os.Geteuid() != 0 {
		return errors.New("the descriptors that a user has in flight are limited, and root's are not")
	}
	return nil
}
