package main

import (
	"fmt"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// messages is one message after the other, sent and received and its descriptors closed by one goroutine.
func messages(style socketpair.Style, count int) (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "same", int(style), count))
	s.add(inC("C, best", "batches", int(style), count))
	for i := range contenders {
		if contenders[i].can(style, count) {
			s.add(messagesOf(&contenders[i], style, count))
		}
		if contenders[i].name == "fdkit raw, lazy" {
			s.add(batchesOf(style, count))
		}
	}
	return s.done()
}

func messagesOf(c *contender, style socketpair.Style, count int) (subject, error) {
	a, b, p, err := place(c, style, count)
	if err != nil {
		return subject{}, err
	}
	return subject{name: c.name, inGo: true, run: timed(func(n int) error {
		for range n {
			if err := a.send(p); err != nil {
				return err
			}
			if err := b.receive(p); err != nil {
				return err
			}
		}
		return nil
	}), close: func() {
		_ = a.close()
		_ = b.close()
		p.close()
	}}, nil
}

// place makes a pair of ends and what to send.
func place(c *contender, style socketpair.Style, count int) (a, b end, p *payload, err error) {
	if p, err = c.payload(count); err != nil {
		return nil, nil, nil, err
	}
	if a, b, err = c.ends(style); err != nil {
		p.close()
		return nil, nil, nil, err
	}
	return a, b, p, nil
}

func batchesOf(style socketpair.Style, count int) (subject, error) {
	p, err := newPayload(count)
	if err != nil {
		return subject{}, err
	}
	a, b, err := scm.Pair(style)
	if err != nil {
		p.close()
		return subject{}, err
	}
	e := newBatches(a, b, p)
	return subject{
		name: fmt.Sprintf("fdkit raw, batches of %d", unit), inGo: true,
		run: timed(func(n int) error { return e.pass(n, p) }),
		close: func() {
			_ = a.Close()
			_ = b.Close()
			p.close()
		},
	}, nil
}

// setup collects subjects, and closes them if one cannot be made.
type setup struct {
	subjects []subject
	err      error
}

func (s *setup) add(one subject, err error) {
	if err != nil {
		if s.err == nil {
			s.err = err
		}
		return
	}
	s.subjects = append(s.subjects, one)
}

func (s *setup) done() ([]subject, error) { return s.subjects, s.err }

func (s *setup) undo(err *error) {
	if *err == nil {
		return
	}
	for _, one := range s.subjects {
		if one.close != nil {
			one.close()
		}
	}
}
