//go:build unix

package holder

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// A Client is a connection to a holder, ours or s6's.
type Client struct {
	ch   *channel
	path string
}

// Dial connects to the holder at path. ctx bounds everything that the Client does.
func Dial(ctx context.Context, path string) (*Client, error) {
	var dialer net.Dialer
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			c, err := scm.NewConn(conn.(*net.UnixConn))
			if err != nil {
				_ = conn.Close()
				return nil, err
			}
			if deadline, ok := ctx.Deadline(); ok {
				_ = c.SetDeadline(deadline)
			}
			return &Client{newChannel(c, maxAnswer), path}, nil
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
			return nil, errors.WithMessage(err, "no holder is there (fdpass hold starts one)")
		case !errors.Is(err, syscall.EAGAIN): // its queue is full
			return nil, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, errors.WithMessagef(ctx.Err(), "the holder at %s accepts nobody", path)
		}
	}
}

// Close closes the connection.
func (c *Client) Close() error {
	_, fds := c.ch.rest()
	sysfd.CloseAll(fds)
	return c.ch.conn.Close()
}

// ask sends a request and reads the answer, without its status. Descriptors that come with it are the
// caller's.
func (c *Client) ask(op string, r request, fds ...syscall.Conn) (payload []byte, got []int, err error) {
	frame := r.append(nil)
	frame = append(appendHeader(nil, len(frame), len(fds)), frame...)
	// One that refuses at once has answered before it has closed.
	werr := c.ch.conn.Send(frame, fds...)
	if werr != nil && !errors.Is(werr, scm.ErrPeerGone) {
		return nil, nil, errors.WithMessagef(werr, "%s %q", op, r.name)
	}
	payload, got, err = c.answer(op, r.name)
	var refused *StatusError
	if werr != nil && !errors.As(err, &refused) {
		sysfd.CloseAll(got)
		return nil, nil, errors.WithMessagef(werr, "%s %q", op, r.name)
	}
	return payload, got, err
}

// answer reads a frame that begins with a status.
func (c *Client) answer(op, name string) (payload []byte, fds []int, err error) {
	payload, fds, err = c.ch.read()
	if err == nil && len(payload) == 0 {
		err = errMalformed
	}
	if err == nil && payload[0] != 0 {
		sysfd.CloseAll(fds)
		return nil, nil, &StatusError{op, name, syscall.Errno(payload[0])}
	}
	if err != nil {
		sysfd.CloseAll(fds)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errors.WithMessagef(err, "the holder at %s does not answer", c.path)
		case err == io.EOF || errors.Is(err, scm.ErrPeerGone):
			err = errors.WithMessagef(err, "the holder at %s has closed the connection, as it does with users whom it refuses", c.path)
		}
		return nil, nil, errors.WithMessage(err, op)
	}
	return payload[1:], fds, nil
}

// expect returns an error, and closes the descriptors, if an answer is not of this size or has not so
// many of them.
func expect(payload []byte, size int, fds []int, nfds int) error {
	if len(payload) == size && len(fds) == nfds {
		return nil
	}
	sysfd.CloseAll(fds)
	return errMalformed
}

// Store has the holder keep a descriptor, which is borrowed, under a name that is not in use.
func (c *Client) Store(name string, expiry Tain, fd syscall.Conn) error {
	if err := checkName(name); err != nil {
		return err
	}
	payload, fds, err := c.ask("store", request{op: opStore, name: name, expiry: expiry}, fd)
	if err != nil {
		return err
	}
	return expect(payload, 0, fds, 0)
}

// Retrieve gives the descriptor of this name to the caller. With remove the holder has it no longer.
func (c *Client) Retrieve(name string, remove bool) (FD, error) {
	if err := checkName(name); err != nil {
		return -1, err
	}
	payload, fds, err := c.ask("retrieve", request{op: opRetrieve, name: name, remove: remove})
	if err == nil {
		err = expect(payload, 0, fds, 1)
	}
	if err != nil {
		return -1, err
	}
	return FD(fds[0]), nil
}

// Delete has the holder close the descriptor of this name.
func (c *Client) Delete(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	payload, fds, err := c.ask("delete", request{op: opDelete, name: name})
	if err != nil {
		return err
	}
	return expect(payload, 0, fds, 0)
}

// List returns the names of what the holder has.
func (c *Client) List() ([]string, error) {
	payload, fds, err := c.ask("list", request{op: opList})
	if err != nil {
		return nil, err
	}
	if err := expect(nil, 0, fds, 0); err != nil {
		return nil, err
	}
	return parseList(payload)
}

// A Dumped is a descriptor of a dump.
type Dumped struct {
	Entry
	FD FD
}

// Dump gives everything that the holder has to the caller. After an error there is nothing.
func (c *Client) Dump() (all []Dumped, err error) {
	payload, fds, err := c.ask("dump", request{op: opDump})
	if err == nil {
		err = expect(nil, 0, fds, 0)
	}
	total := 0
	if err == nil {
		total, err = parseDump(payload)
	}
	if err == nil {
		err = sysfd.Grow(total)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeDump(all)
			all = nil
		}
	}()
	for len(all) < total {
		payload, fds, err := c.ch.read()
		if err != nil {
			return all, errors.WithMessage(err, "dump")
		}
		entries, err := parseEntries(payload, len(fds))
		if err != nil || len(entries) == 0 || len(all)+len(entries) > total {
			sysfd.CloseAll(fds)
			return all, errMalformed
		}
		for i, e := range entries {
			all = append(all, Dumped{e, FD(fds[i])})
		}
	}
	return all, nil
}

func closeDump(all []Dumped) {
	fds := make([]int, len(all))
	for i, d := range all {
		fds[i] = int(d.FD)
	}
	sysfd.CloseAll(fds)
}

// adopt has our successor take over conn, which is borrowed, with what was read of it.
func (c *Client) adopt(r request, fds []int, conn syscall.Conn) error {
	for first := true; first || len(fds) > 0; first = false {
		n := min(len(fds), maxFDs)
		if err := c.ch.write(r.append(nil), fds[:n]...); err != nil {
			var refused *StatusError
			if _, _, aerr := c.answer("adopt", ""); errors.As(aerr, &refused) {
				return refused
			}
			return err
		}
		fds, r.unread = fds[n:], nil
	}
	payload, got, err := c.ask("adopt", request{op: opAdopt}, conn)
	if err != nil {
		return err
	}
	return expect(payload, 0, got, 0)
}

// DefaultPath is where the holder is unless somebody says otherwise: $FDPASS_HOLDER, or
// fdpass-hold.sock in $XDG_RUNTIME_DIR or /run.
func DefaultPath() string {
	if path := os.Getenv("FDPASS_HOLDER"); path != "" {
		return path
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run"
	}
	return dir + "/fdpass-hold.sock"
}
