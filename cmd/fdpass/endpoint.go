//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// An endpoint says where messages go to or come from: the flags that send and recv share.
type endpoint struct {
	connect, listen string
	fd              int
	style           string
	timeout         time.Duration
	peer            peerFlags
}

// networks are the styles by their names in package net.
var networks = map[string]string{"stream": "unix", "seqpacket": "unixpacket", "datagram": "unixgram"}

func (e *endpoint) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&e.connect, "connect", "", "connect to the socket at `PATH`")
	f.StringVar(&e.listen, "listen", "", "make the socket `PATH`, with mode 0600, and wait for one connection,\nor for datagrams; the path is removed when that has come")
	f.IntVar(&e.fd, "fd", -1, "use the inherited socket with the number `N`, such as one end of a pair")
	f.StringVar(&e.style, "style", "stream", "`STYLE` of the socket at the path: stream, seqpacket or datagram")
	f.DurationVar(&e.timeout, "timeout", 0, "give up after `TIME`, such as 2s, with exit status 124;\nuntil then --connect also waits for somebody to listen")
	f.Lookup("fd").DefValue = "0" // none, for --help
	e.peer.add(c)
	_ = c.RegisterFlagCompletionFunc("style", cobra.FixedCompletions([]string{"stream", "seqpacket", "datagram"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("fd", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("timeout", cobra.FixedCompletions([]string{"2s", "10s", "1m"}, cobra.ShellCompDirectiveNoFileComp))
}

// checkFlags says what is wrong with the command line.
func (e *endpoint) checkFlags(c *cobra.Command) error {
	ways := 0
	for _, name := range []string{"connect", "listen", "fd"} {
		if c.Flags().Changed(name) {
			ways++
		}
	}
	switch {
	case ways != 1:
		return usagef("say over what: one of --connect PATH, --listen PATH and --fd N")
	case networks[e.style] == "":
		return usagef("--style %s: it is stream, seqpacket or datagram", e.style)
	case e.byNumber() && c.Flags().Changed("style"):
		return usagef("--style is for --connect and --listen: an inherited socket has its style")
	case strings.HasPrefix(e.listen, "@") && !e.peer.given():
		return usagef("everybody may connect to an abstract name such as %s: say who may, with --same-user or --peer-uid", e.listen)
	case e.timeout < 0:
		return usagef("--timeout %v: it cannot be negative", e.timeout)
	}
	return nil
}

func (e *endpoint) byNumber() bool { return e.connect == "" && e.listen == "" }

// A channel is an open endpoint.
type channel struct {
	*scm.Conn
	ctx       context.Context
	inherited number // -1 if fdpass opened the socket itself
	remove    func() // the path
	stop      func() bool
}

// open opens the endpoint, and gives the channel to the caller. Whoever is not permitted is refused here, if
// that can be known before a message. What ctx's end interrupts fails with its cause.
func (e *endpoint) open(ctx context.Context, stderr io.Writer) (*channel, error) {
	ch := &channel{ctx: ctx, inherited: -1, remove: func() {}}
	var err error
	switch {
	case e.byNumber():
		ch.inherited = number(e.fd)
		ch.Conn, err = inheritConn(e.fd)
	case e.connect != "":
		ch.Conn, err = e.dial(ctx)
	case e.style == "datagram":
		ch.Conn, ch.remove, err = e.bind(ctx)
	default:
		ch.Conn, err = e.accept(ctx, stderr)
	}
	if err != nil {
		return nil, because(ctx, err)
	}
	ch.stop = context.AfterFunc(ctx, func() { _ = ch.Conn.Close() })
	return ch, nil
}

// close ends the channel and takes its path away.
func (ch *channel) close() {
	ch.stop()
	_ = ch.Conn.Close()
	ch.remove()
}

// inheritConn takes over the number fd and says what to do if it is no socket that carries descriptors.
func inheritConn(fd int) (*scm.Conn, error) {
	if fd < 0 || !number(fd).inherited() {
		return nil, usagef("descriptor %d is not open here: fdpass must inherit it from the program that starts it", fd)
	}
	conn, err := scm.Inherit(uintptr(fd))
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return nil, errors.Errorf("descriptor %d is not a socket: only AF_UNIX sockets carry descriptors", fd)
	case errors.Is(err, scm.ErrNotUnix):
		return nil, errors.Errorf("descriptor %d is a socket of another kind: only AF_UNIX sockets carry descriptors", fd)
	case errors.Is(err, scm.ErrListening):
		return nil, errors.Errorf("descriptor %d listens: give fdpass a connection, or a path with --listen", fd)
	}
	return conn, err
}

// dial connects to the path, and waits for somebody to listen there if there is a timeout.
func (e *endpoint) dial(ctx context.Context) (*scm.Conn, error) {
	again := time.NewTicker(10 * time.Millisecond) // nothing tells when a name gets its listener
	defer again.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, networks[e.style], e.connect)
		if err == nil {
			return e.connected(c.(*net.UnixConn))
		}
		switch {
		case errors.Is(err, unix.EPROTOTYPE):
			return nil, errors.Errorf("the socket at %s is not a %s socket: try another --style", e.connect, e.style)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EAGAIN):
			return nil, err
		case e.timeout > 0:
		case errors.Is(err, unix.EAGAIN):
			return nil, errors.WithMessagef(unix.EAGAIN, "too many wait at %s already (--timeout TIME tries again)", e.connect)
		default:
			return nil, errors.WithMessagef(errnoOf(err), "nobody listens at %s (--timeout TIME waits for it)", e.connect)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// errnoOf returns the errno in err, whose words are enough.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// connected takes c over, and closes it if it is not whom the flags ask for.
func (e *endpoint) connected(c *net.UnixConn) (*scm.Conn, error) {
	if e.style != "datagram" {
		if err := e.peer.check(c); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	conn, err := scm.NewConn(c)
	if err != nil {
		_ = c.Close()
	}
	return conn, err
}

// accept makes the socket, accepts one connection of somebody who is permitted, and takes the socket away: who
// comes later is not left waiting.
func (e *endpoint) accept(ctx context.Context, stderr io.Writer) (*scm.Conn, error) {
	var ln net.Listener
	remove, err := publish(e.listen, func(path string) (err error) {
		lc := net.ListenConfig{Control: private}
		ln, err = lc.Listen(ctx, networks[e.style], path)
		return err
	})
	if err != nil {
		if ln != nil {
			_ = ln.Close()
		}
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer func() {
		stop()
		remove()
		_ = ln.Close()
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		conn, err := e.connected(c.(*net.UnixConn))
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		fmt.Fprintf(stderr, "fdpass: %v\n", err) // and wait for another one
	}
}

// bind makes the socket that datagrams are sent to.
func (e *endpoint) bind(ctx context.Context) (*scm.Conn, func(), error) {
	var conn *scm.Conn
	remove, err := publish(e.listen, func(path string) error {
		lc := net.ListenConfig{Control: private}
		c, err := lc.ListenPacket(ctx, "unixgram", path)
		if err != nil {
			return err
		}
		if conn, err = scm.NewConn(c.(*net.UnixConn)); err != nil {
			_ = c.Close()
			return err
		}
		if e.peer.given() { // before anybody can send
			err = conn.SetPassCred(true)
		}
		return err
	})
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, remove, nil
}

// private gives a socket, before it has a name, the mode that its name will have: fchmod(2) on a socket that is
// bound already does nothing, and chmod(2) of the name comes too late.
func private(_, address string, c syscall.RawConn) error {
	if strings.HasPrefix(address, "@") {
		return nil
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = unix.Fchmod(int(fd), 0o600) }); err != nil {
		return err
	}
	return os.NewSyscallError("fchmod", ferr)
}

// publish calls listen with a path in a folder that nobody knows, and gives the socket its name when it is ready:
// whoever finds the name finds somebody who listens. A name that is there already stays whose it is. remove takes
// the name away if it still is this socket's.
func publish(path string, listen func(path string) error) (remove func(), err error) {
	if strings.HasPrefix(path, "@") {
		return func() {}, listen(path)
	}
	folder, err := os.MkdirTemp(filepath.Dir(path), ".fdpass-")
	if err != nil {
		return nil, err
	}
	// Where strangers may rename, another folder may have this name by now: nothing is removed that is not known.
	fresh := filepath.Join(folder, rand.Text()[:8])
	defer func() {
		_ = os.Remove(fresh)
		_ = os.Remove(folder)
	}()
	if err := listen(fresh); errors.Is(err, unix.EINVAL) {
		return nil, errors.WithMessagef(err, "listen at %s: the path may be too long for a socket", path)
	} else if err != nil {
		return nil, err
	}
	own, err := os.Lstat(fresh)
	if err != nil {
		return nil, err
	}
	if err := os.Link(fresh, path); errors.Is(err, fs.ErrExist) {
		return nil, errors.Errorf("%s is there already: if nobody serves there any more, remove it first", path)
	} else if err != nil {
		return nil, err
	}
	return func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(now, own) {
			_ = os.Remove(path)
		}
	}, nil
}

// send sends one message.
func (ch *channel) send(p []byte, fds ...syscall.Conn) error {
	if ch.inherited < 0 {
		return because(ch.ctx, ch.Conn.Send(p, fds...))
	}
	// In pieces that find room when there is some.
	for first := true; first || len(p) > 0; first = false {
		piece := p
		if ch.Style() == socketpair.Stream {
			piece = p[:min(len(p), 16<<10)]
		}
		if err := ch.wait(unix.POLLOUT); err != nil {
			return err
		}
		if err := ch.Conn.Send(piece, fds...); err != nil {
			return because(ch.ctx, err)
		}
		p, fds = p[len(piece):], nil
	}
	return nil
}

// receive receives one message.
func (ch *channel) receive(p []byte, maxFiles int) (scm.Message, error) {
	if ch.inherited >= 0 {
		if err := ch.wait(unix.POLLIN); err != nil {
			return scm.Message{}, err
		}
	}
	m, err := ch.Conn.Receive(p, maxFiles)
	return m, because(ch.ctx, err)
}

// wait waits until an inherited socket is ready. Its open file is its other holders' as well, who may expect it in
// blocking mode, and the runtime's poller would change that: so it is asked with poll(2), and the Conn
// finds it ready. Only if somebody else was faster does the Conn wait, by changing the mode.
func (ch *channel) wait(event int16) error {
	wake, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	stop := context.AfterFunc(ch.ctx, func() { _ = end.Close() })
	defer func() {
		stop()
		_ = end.Close()
	}()
	return because(ch.ctx, sysfd.Control(wake, func(wakeFD int) error {
		poll := []unix.PollFd{{Fd: int32(ch.inherited), Events: event}, {Fd: int32(wakeFD), Events: unix.POLLIN}}
		for {
			_, err := unix.Poll(poll, -1)
			switch {
			case err == unix.EINTR:
			case err != nil:
				return os.NewSyscallError("poll", err)
			case ch.ctx.Err() != nil:
				return context.Cause(ch.ctx)
			default:
				return nil
			}
		}
	}))
}
