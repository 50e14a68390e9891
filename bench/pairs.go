package main

import (
	"errors"
	"net"
	"os"

	hugelgupf "github.com/hugelgupf/socketpair"
	"github.com/tailscale/peercred"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// An op is an operation that a contender makes again and again.
type op struct {
	name string
	make func() error
}

func (o op) subject() subject {
	return subject{name: o.name, inGo: true, run: timed(func(n int) error {
		for range n {
			if err := o.make(); err != nil {
				return err
			}
		}
		return nil
	})}
}

// pairOps make a pair and close it.
var pairOps = []op{
	{"fdkit scm.Pair", func() error {
		a, b, err := scm.Pair(socketpair.Stream)
		if err != nil {
			return err
		}
		return errors.Join(a.Close(), b.Close())
	}},
	{"fdkit socketpair.Create", func() error {
		a, b, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return errors.Join(a.Close(), b.Close())
	}},
	{"fdkit socketpair.New", func() error {
		a, b, err := socketpair.New(socketpair.Stream)
		if err != nil {
			return err
		}
		return errors.Join(a.Close(), b.Close())
	}},
	{"unix.Socketpair", func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		closeEach(fds[:])
		return nil
	}},
	{"unix.Socketpair + net.FileConn", func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "pair")
			c, err := net.FileConn(f)
			if err := errors.Join(err, f.Close(), c.Close()); err != nil {
				return err
			}
		}
		return nil
	}},
	// Its files are left to the garbage collector, which is a part of what it costs.
	{"hugelgupf/socketpair", func() error {
		a, b, err := hugelgupf.StreamSocketPair()
		if err != nil {
			return err
		}
		return errors.Join(a.Close(), b.Close())
	}},
}

func pairs() (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "pairs", unix.SOCK_STREAM, 0))
	s.subjects = append(s.subjects, opSubjects(pairOps)...)
	return s.done()
}

func opSubjects(ops []op) (subjects []subject) {
	for _, o := range ops {
		subjects = append(subjects, o.subject())
	}
	return subjects
}

// peerOps ask who is at the other end of c.
func peerOps(c *net.UnixConn) []op {
	return []op{
		{"fdkit credentials.Peer", func() error {
			_, err := credentials.Peer(c)
			return err
		}},
		{"unix.GetsockoptUcred", func() (err error) {
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			return errors.Join(raw.Control(func(fd uintptr) {
				_, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
			}), err)
		}},
		{"tailscale/peercred", func() error {
			_, err := peercred.Get(c)
			return err
		}},
	}
}

func peers() (subjects []subject, err error) {
	s := &setup{}
	defer s.undo(&err)
	s.add(inC("C, plain", "peer", unix.SOCK_STREAM, 0))
	inGo, err := peerSubjects()
	if err != nil {
		return nil, err
	}
	s.subjects = append(s.subjects, inGo...)
	return s.done()
}

func peerSubjects() ([]subject, error) {
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		return nil, err
	}
	subjects := opSubjects(peerOps(a))
	subjects[0].close = func() {
		_ = a.Close()
		_ = b.Close()
	}
	return subjects, nil
}
