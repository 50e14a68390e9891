package supervise

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
)

// control is the control socket.
type control struct {
	socket address.Socket // without a number: that is the listener's
	ln     *net.UnixListener
}

// openControl opens it at the first of the addresses whose folder is there or can be made.
func openControl(service string, addresses []string) (*control, error) {
	for i, where := range addresses {
		more := i < len(addresses)-1
		if more && os.MkdirAll(filepath.Dir(where), 0o700) != nil {
			continue
		}
		s, err := address.Address{Network: "unix", Where: where}.Open(address.Options{Mode: 0o600, Nonblock: true})
		if more && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS)) {
			continue
		}
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, errors.WithMessagef(err, "control socket: does another %q run? --name or --control tells them apart", service)
		}
		if err != nil {
			return nil, errors.WithMessage(err, "control socket")
		}
		return newControl(s)
	}
	return nil, nil
}

// newControl takes the socket over.
func newControl(s *address.Socket) (*control, error) {
	file := os.NewFile(uintptr(s.FD), s.Where)
	s.FD = -1
	defer file.Close()
	ln, err := net.FileListener(file)
	if err != nil {
		_ = s.Remove()
		return nil, errors.WithMessage(err, "control socket")
	}
	u, ok := ln.(*net.UnixListener)
	if !ok {
		_ = ln.Close()
		return nil, errors.New("control socket: not one")
	}
	return &control{*s, u}, nil
}

func (c *control) close() {
	if c != nil {
		_ = c.socket.Remove()
		_ = c.ln.Close()
	}
}

// number returns the listener's number, which stays its.
func (c *control) number() int { return number(c.ln) }

// A client is one that asked for something that takes time.
type client struct {
	conn *net.UnixConn
}

// answer answers and hangs up. An answer has room in an empty socket, so nobody can make it wait.
func (c *client) answer(a Answer) {
	if c == nil {
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = json.NewEncoder(c.conn).Encode(a)
	_ = c.conn.Close()
}

func (c *client) fail(err error) { c.answer(Answer{Error: err.Error()}) }

func (s *Supervisor) serveControl() {
	ln := credentials.Listener(s.control.ln, whom)
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many descriptors, as a rule
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go s.serveClient(conn.(*net.UnixConn))
	}
}

func (s *Supervisor) serveClient(conn *net.UnixConn) {
	c := &client{conn}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var r Request
	if err := json.NewDecoder(io.LimitReader(conn, most)).Decode(&r); err != nil {
		c.fail(errors.WithMessage(err, "cannot read the request"))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Do {
	case "status":
		c.answer(Answer{Status: s.status()})
	case "restart":
		s.restart(func(failure error) {
			if failure != nil {
				c.fail(failure)
			} else {
				c.answer(Answer{})
			}
		})
	case "replace":
		s.askReplace(c)
	default:
		c.fail(errors.Errorf("fdpass %s does not know how to %q", s.Version, r.Do))
	}
}

// number returns the number of a descriptor, which stays c's.
func number(c syscall.Conn) int {
	n := -1
	_ = sysfd.Control(c, func(fd int) error {
		n = fd
		return nil
	})
	return n
}
