package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// pingPong is a message there and one back, between two goroutines or threads.
func pingPong(style socketpair.Style, count int) (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "threads", int(style), count))
	for i := range contenders {
		if c := &contenders[i]; c.can(style, count) {
			s.add(pingPongOf(c, style, count))
		}
	}
	return s.done()
}

func pingPongOf(c *contender, style socketpair.Style, count int) (subject, error) {
	a, b, p, err := place(c, style, count)
	if err != nil {
		return subject{}, err
	}
	return subject{name: c.name, inGo: true, run: timed(func(n int) error {
		answered := make(chan error, 1)
		go func() {
			for range n {
				if err := b.receive(p); err != nil {
					answered <- err
					return
				}
				if err := b.send(p); err != nil {
					answered <- err
					return
				}
			}
			answered <- nil
		}()
		if err := ask(a, p, n); err != nil {
			return err
		}
		return <-answered
	}), close: func() {
		_ = a.close()
		_ = b.close()
		p.close()
	}}, nil
}

func ask(e end, p *payload, n int) error {
	for range n {
		if err := e.send(p); err != nil {
			return err
		}
		if err := e.receive(p); err != nil {
			return err
		}
	}
	return nil
}

// betweenProcesses is the same between two processes.
func betweenProcesses(style socketpair.Style, count int) (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "processes", int(style), count))
	for i := range contenders {
		if c := &contenders[i]; c.pair == nil && c.can(style, count) {
			s.add(withProcess(c, "echo", style, count, ask))
		}
	}
	return s.done()
}

// floods are as many messages as one process can send and another one receive.
func floods(style socketpair.Style, count int) (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "flood", int(style), count))
	s.add(inC("C, best", "flood-batches", int(style), count))
	s.add(floodInBatches(style, count))
	for i := range contenders {
		if c := &contenders[i]; c.pair == nil && c.can(style, count) {
			s.add(withProcess(c, "flood", style, count, func(e end, p *payload, n int) error {
				for range n {
					if err := e.receive(p); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	return s.done()
}

// withProcess is a contender that has another process do something.
func withProcess(c *contender, role string, style socketpair.Style, count int, run func(end, *payload, int) error) (subject, error) {
	p, err := c.payload(count)
	if err != nil {
		return subject{}, err
	}
	fd, kill, err := job{role, c.name, count}.start(style)
	if err != nil {
		p.close()
		return subject{}, err
	}
	e, err := c.end(fd)
	if err != nil {
		p.close()
		kill()
		return subject{}, err
	}
	return subject{name: c.name, inGo: true, run: timed(func(n int) error { return run(e, p, n) }), close: func() {
		kill()
		_ = e.close()
		p.close()
	}}, nil
}

func floodInBatches(style socketpair.Style, count int) (subject, error) {
	p, err := newPayload(count)
	if err != nil {
		return subject{}, err
	}
	fd, kill, err := job{"flood in batches", "", count}.start(style)
	if err != nil {
		p.close()
		return subject{}, err
	}
	conn, err := connOf(fd)
	if err != nil {
		p.close()
		kill()
		return subject{}, err
	}
	c, err := scm.NewConn(conn)
	if err != nil {
		_ = conn.Close()
		p.close()
		kill()
		return subject{}, err
	}
	b := newBatches(nil, c, p)
	return subject{name: fmt.Sprintf("fdkit raw, batches of %d", unit), inGo: true,
		run: timed(func(n int) error {
			for n > 0 {
				got, err := b.receive(p)
				if err != nil {
					return err
				}
				n -= got
			}
			return nil
		}), close: func() {
			kill()
			_ = c.Close()
			p.close()
		}}, nil
}

// connOf makes a connection of fd and closes it after an error.
func connOf(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// exchanges prove to two processes who the other one is, again and again.
func exchanges() (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "exchange", int(socketpair.Stream), 0))
	s.add(exchange())
	return s.done()
}

func exchange() (subject, error) {
	fd, kill, err := job{role: "exchange"}.start(socketpair.Stream)
	if err != nil {
		return subject{}, err
	}
	c, err := connOf(fd)
	if err != nil {
		kill()
		return subject{}, err
	}
	return subject{name: "fdkit credentials.Exchange", inGo: true, run: timed(func(n int) error {
		for range n {
			who, err := credentials.Exchange(context.Background(), c)
			if err != nil {
				return err
			}
			if err := who.Close(); err != nil {
				return err
			}
		}
		return nil
	}), close: func() {
		kill()
		_ = c.Close()
	}}, nil
}
