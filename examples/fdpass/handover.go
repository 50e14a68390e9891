package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// The hand-over is five messages over a socketpair, after both ends have proved who they are:
//
//	predecessor              successor
//	"listener" + socket  ->
//	                     <-  "ready"
//	stops accepting
//	"go"                 ->
//	                         accepts
//	                     <-  "serving"
//	drains and ends
//
// Until "go" a failure on either side leaves the predecessor serving. Between "go" and "serving"
// the clients wait in the kernel's accept queue.

// generationVariable is in the environment of a server process: 1, 2, …
const generationVariable = "FDPASS_GENERATION"

// handOver starts a successor and returns when it serves, with the time in which nobody accepted.
// After an error there is no successor and this generation serves on. The successor's death after
// that is not provided for: it would take a transaction.
func (s *server) handOver(program string) (pause time.Duration, err error) {
	socket, child, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		return 0, err
	}
	c, err := scm.NewConn(socket) // takes socket over
	if err != nil {
		_ = socket.Close()
		_ = child.Close()
		return 0, err
	}
	defer c.Close()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), generationVariable+"="+strconv.Itoa(s.generation+1))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{child} // its descriptor 3
	err = cmd.Start()
	_ = child.Close() // with a copy here, Receive would not see that the child is gone
	if err != nil {
		return 0, err
	}
	pause, err = s.offer(c, cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill() // there must not be two that accept
		_ = cmd.Wait()
		s.drainer.gate.resume()
		return 0, errors.WithMessagef(err, "the successor, pid %d, has ended (%v)", cmd.Process.Pid, cmd.ProcessState)
	}
	return pause, nil
}

func (s *server) offer(c *scm.Conn, child int) (pause time.Duration, err error) {
	if err := meet(c, child); err != nil {
		return 0, err
	}
	if err := c.Send([]byte("listener"), s.ln); err != nil {
		return 0, err
	}
	if err := expect(c, "ready"); err != nil {
		return 0, err
	}
	start := time.Now()
	s.drainer.gate.pause()
	_ = c.SetDeadline(start.Add(pauseTimeout))
	if err := c.Send([]byte("go")); err != nil {
		return 0, err
	}
	err = expect(c, "serving")
	return time.Since(start), err
}

// takeOver is the successor's side. After an error nothing has been accepted here.
func (s *server) takeOver() error {
	c, err := scm.Inherit(3)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := meet(c, os.Getppid()); err != nil {
		return err
	}
	m, err := c.Receive(make([]byte, 64), 1)
	if err != nil {
		return errors.WithMessage(err, "waiting for the listener")
	}
	defer m.Close()
	ln, err := m.Files.TakeListener(0)
	if err != nil {
		return err
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		_ = ln.Close()
		return errors.Errorf("received a listener of %v, not of TCP", ln.Addr().Network())
	}
	s.prepare(tcp)
	if err := c.Send([]byte("ready")); err != nil {
		return err
	}
	if err := expect(c, "go"); err != nil {
		return err
	}
	go s.run()
	_ = c.Send([]byte("serving")) // if the predecessor is gone, all the more
	return nil
}

// meet makes sure that the other end is the process pid, of this user or root. The socket itself
// says on both ends who called socketpair(2), which proves nothing: see credentials.Exchange.
func meet(c *scm.Conn, pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	peer, err := credentials.Exchange(ctx, c)
	if err != nil {
		return err
	}
	defer peer.Close()
	if err := credentials.AnyOf(credentials.SameUser(), credentials.Root()).CheckSender(&peer); err != nil {
		return err
	}
	if peer.PID != pid {
		return errors.Errorf("%v is at the other end, not pid %d", peer, pid)
	}
	deadline, _ := ctx.Deadline()
	return c.SetDeadline(deadline)
}

// expect receives one message without descriptors.
func expect(c *scm.Conn, want string) error {
	m, err := c.Receive(make([]byte, 64), 0)
	if err != nil {
		return errors.WithMessagef(err, "waiting for %q", want)
	}
	defer m.Close()
	if string(m.Data) != want {
		return errors.Errorf("received %q instead of %q", m.Data, want)
	}
	return nil
}
