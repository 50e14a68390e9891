package handoff

import (
	"io"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A frame is one message of the protocol. Its files are closed by whoever handles it.
type frame struct {
	kind    frameType
	payload []byte
	files   scm.Files
}

// discard closes descriptors that nobody takes. Their sender decides how long close(2) takes, with SO_LINGER, and must not
// hold up a deadline by that.
func discard(files *scm.Files) { sysfd.Discard(takeAll(files)) }

// takeAll takes what nobody has taken; -1 stands for what somebody has.
func takeAll(files *scm.Files) []int {
	fds := make([]int, files.Len())
	for i := range fds {
		fds[i] = files.TakeFD(i)
	}
	return fds
}

// A channel reads and writes frames over a stream or SOCK_SEQPACKET. On a stream several frames may
// come at once, or one in pieces; the descriptors of a frame come with its first byte, so they wait
// in a queue of their own.
type channel struct {
	conn    *scm.Conn
	in      []byte
	unread  []byte
	pending []scm.Files
}

// maxPending bounds the descriptors of frames that are not complete: on a stream those of the next
// frame may be here already.
const maxPending = 2

func newChannel(c *scm.Conn) *channel {
	return &channel{conn: c, in: make([]byte, frameHeader+maxPayload)}
}

// read returns the next frame. It blocks as Receive does. io.EOF is the end between two frames.
func (ch *channel) read() (frame, error) {
	for {
		f, ok, err := ch.next()
		if ok || err != nil {
			return f, err
		}
		if err := ch.fill(); err != nil {
			return frame{}, err
		}
	}
}

// fill receives one message, which may be a piece of a frame or several frames.
func (ch *channel) fill() error {
	m, err := ch.conn.Receive(ch.in, itemsPerFrame)
	if err != nil {
		if err == io.EOF && len(ch.unread) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	_ = m.Sender.Close()
	if ch.conn.Style() != socketpair.Stream {
		if err := onePacket(m.Data); err != nil {
			discard(&m.Files)
			return err
		}
	}
	ch.unread = append(ch.unread, m.Data...)
	if m.Files.Len() > 0 {
		ch.pending = append(ch.pending, m.Files)
	}
	if len(ch.pending) > maxPending {
		return errors.WithMessage(ErrProtocol, "descriptors that belong to no frame")
	}
	return nil
}

// onePacket returns an error if p is not exactly one frame. What is left of a packet must not be taken
// for the beginning of another frame.
func onePacket(p []byte) error {
	if len(p) < frameHeader {
		return errWire
	}
	_, _, size, err := parseHeader(p)
	if err == nil && len(p) != frameHeader+size {
		err = errWire
	}
	return err
}

// next takes a whole frame out of what was read.
func (ch *channel) next() (frame, bool, error) {
	if len(ch.unread) < frameHeader {
		return frame{}, false, nil
	}
	kind, nfds, size, err := parseHeader(ch.unread)
	if err != nil {
		return frame{}, false, err
	}
	if len(ch.unread) < frameHeader+size {
		return frame{}, false, nil
	}
	f := frame{kind: kind, payload: append([]byte(nil), ch.unread[frameHeader:frameHeader+size]...)}
	ch.unread = append(ch.unread[:0], ch.unread[frameHeader+size:]...)
	if nfds > 0 {
		if len(ch.pending) == 0 || ch.pending[0].Len() != nfds {
			return frame{}, false, errors.WithMessagef(ErrProtocol, "a frame with %d descriptors came with others", nfds)
		}
		f.files = ch.pending[0]
		ch.pending = ch.pending[1:]
	}
	if len(ch.unread) == 0 && len(ch.pending) > 0 {
		discard(&f.files)
		return frame{}, false, errors.WithMessage(ErrProtocol, "descriptors that belong to no frame")
	}
	return f, true, nil
}

// close drops what was received and not handled, and closes the connection.
func (ch *channel) close() {
	for i := range ch.pending {
		discard(&ch.pending[i])
	}
	ch.pending = nil
	_ = ch.conn.Close()
}
