//go:build unix

package holder

import (
	"io"
	"slices"

	"github.com/fdkit/fdkit/scm"
)

// A channel reads and writes frames over a stream. Several may come at once, or one in pieces;
// descriptors come with the first byte of their frame, so they wait in a queue of their own.
type channel struct {
	conn    *scm.Conn
	limit   int    // of a payload
	in      []byte // was read,
	off     int    // and was used up to here
	fds     []int  // came, and were not taken
	numbers [maxFDs]int
	out     []byte
}

// chunk is how much is read or written at once.
const chunk = 16 << 10

func newChannel(c *scm.Conn, limit int) *channel { return &channel{conn: c, limit: limit} }

// await returns when a whole frame is there. io.EOF is the end between two frames. Another error leaves
// what has arrived where it is.
func (ch *channel) await() error {
	for {
		if whole, err := ch.whole(); whole || err != nil {
			return err
		}
		if err := ch.fill(); err != nil {
			return err
		}
	}
}

// whole reports whether there is a whole frame.
func (ch *channel) whole() (bool, error) {
	in := ch.in[ch.off:]
	if len(in) < headerSize {
		if len(in) == 0 && len(ch.fds) > 0 {
			return false, errMalformed // they belong to no frame
		}
		return false, nil
	}
	size, nfds, err := parseHeader(in, ch.limit)
	if err != nil || len(in) < headerSize+size {
		return false, err
	}
	if len(ch.fds) < nfds {
		return false, errMalformed
	}
	return true, nil
}

// fill reads what there is, at most a chunk, and waits for it.
func (ch *channel) fill() error {
	if len(ch.fds) > maxFDs { // those of a frame and of the next
		return errMalformed
	}
	ch.in = slices.Delete(ch.in, 0, ch.off)
	ch.off = 0
	ch.in = slices.Grow(ch.in, min(chunk, headerSize+ch.limit))
	n := len(ch.in)
	got, nfds, err := ch.conn.ReceiveFDs(ch.in[n:min(cap(ch.in), n+chunk)], ch.numbers[:])
	if err != nil {
		if err == io.EOF && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	ch.in = ch.in[:n+got]
	ch.fds = append(ch.fds, ch.numbers[:nfds]...)
	return nil
}

// take returns the frame that await has seen and gives its descriptors to the caller. Both are valid
// until the next await.
func (ch *channel) take() (payload []byte, fds []int) {
	in := ch.in[ch.off:]
	size, nfds, _ := parseHeader(in, ch.limit)
	ch.off += headerSize + size
	fds, ch.fds = slices.Clone(ch.fds[:nfds]), slices.Delete(ch.fds, 0, nfds)
	return in[headerSize : headerSize+size], fds
}

// read is await and take.
func (ch *channel) read() (payload []byte, fds []int, err error) {
	if err := ch.await(); err != nil {
		return nil, nil, err
	}
	payload, fds = ch.take()
	return payload, fds, nil
}

// rest gives what has arrived and was not taken to the caller.
func (ch *channel) rest() (unread []byte, fds []int) {
	unread, fds = ch.in[ch.off:], ch.fds
	ch.in, ch.off, ch.fds = nil, 0, nil
	return unread, fds
}

// write sends a frame. The caller keeps the numbers open until it returns.
func (ch *channel) write(payload []byte, fds ...int) error {
	ch.out = append(appendHeader(ch.out[:0], len(payload), len(fds)), payload...)
	return ch.conn.SendFDs(ch.out, fds)
}

// writeLong sends a frame of size bytes that is made piece by piece: next appends a piece to b, until it
// appends nothing.
func (ch *channel) writeLong(size int, next func(b []byte) []byte) error {
	ch.out = appendHeader(ch.out[:0], size, 0)
	for {
		before := len(ch.out)
		ch.out = next(ch.out)
		end := len(ch.out) == before
		if len(ch.out) >= chunk || end && before > 0 {
			if err := ch.conn.Send(ch.out); err != nil {
				return err
			}
			ch.out = ch.out[:0]
		}
		if end {
			return nil
		}
	}
}
