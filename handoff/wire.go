package handoff

import (
	"encoding/binary"

	"github.com/pkg/errors"
)

// The wire format, pure: frames of tag-length-value records, big endian. docs/protocol.md describes
// it for other languages. Everything that a peer can make us allocate has a bound here.

const (
	// protocolVersion is the version that this package speaks, and the oldest that it understands.
	protocolVersion = 1

	frameHeader = 8
	maxPayload  = 60 << 10 // a frame is one packet, well below the smallest usual SO_SNDBUF
	maxItems    = 1 << 16
	maxName     = 255
	maxMeta     = 16 << 10
	maxUnread   = 32 << 10
	maxContent  = 256 << 20 // Meta and Unread of all items together
	maxState    = 64 << 20
	maxReason   = 1 << 10

	// itemsPerFrame bounds the descriptors of a frame; 253 is what the kernel takes in one message.
	itemsPerFrame = 253
)

// A frameType says what a frame is. A frame of a type that is not known is skipped; its descriptors
// are closed.
type frameType uint8

const (
	frameHello    frameType = 1 + iota // both ways
	frameManifest                      // P: how many items, how much state
	frameItems                         // P: items, with their descriptors
	frameAck                           // S: so many items have arrived
	frameOffered                       // P: that was all
	frameAdopted                       // S
	frameState                         // P: a piece of the state
	frameReady                         // S
	frameCommit                        // P
	frameServing                       // S
	frameReleased                      // S
	frameDone                          // P
	frameAbort                         // both ways
	frameAborted                       // P
	frameWants                         // S, over the moves: for these listeners it takes connections
	frameClosed                        // P, over the moves: so many connections are S's
	frameTypes
)

// signals are the frames that are signals to the machines.
var signals = [frameTypes]signal{
	frameHello: sigHello, frameOffered: sigOffered, frameAdopted: sigAdopted, frameReady: sigReady,
	frameCommit: sigCommit, frameServing: sigServing, frameReleased: sigReleased, frameDone: sigDone,
	frameAbort: sigAbort, frameAborted: sigAborted,
}

// frameOf is the inverse of signals.
func frameOf(s signal) frameType {
	for f, sig := range signals {
		if sig == s {
			return frameType(f)
		}
	}
	return 0
}

// A tag names a record. Records with an unknown tag are skipped.
type tag uint16

const (
	tagVersions   tag = 1 + iota // hello: oldest u16, newest u16
	tagName                      // hello: of the service; item: its name; wants, serving: of an item
	tagGeneration                // hello: u64, of the sender; S says 0
	tagCount                     // manifest: items u32; ack: items u32
	tagItem                      // items: a record of records
	tagKind                      // item: u8
	tagBacklog                   // item: of a listener, u32
	tagMeta                      // item: the user's bytes
	tagUnread                    // item: bytes that were read from the connection and not used
	tagData                      // state: bytes
	tagReason                    // abort: text for a person
)

var errWire = errors.WithMessage(ErrProtocol, "malformed frame")

// newFrame makes a frame.
func newFrame(t frameType, nfds int, payload []byte) []byte {
	b := append(make([]byte, frameHeader, frameHeader+len(payload)), payload...)
	seal(b, t, nfds)
	return b
}

// seal writes the header of a frame into the room for it, before the payload.
func seal(b []byte, t frameType, nfds int) {
	b[0], b[1] = byte(t), 0
	binary.BigEndian.PutUint16(b[2:], uint16(nfds))
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
}

// parseHeader returns what a frame's header says. b has frameHeader bytes.
func parseHeader(b []byte) (t frameType, nfds, size int, err error) {
	t, nfds = frameType(b[0]), int(binary.BigEndian.Uint16(b[2:]))
	n := binary.BigEndian.Uint32(b[4:])
	if n > maxPayload || nfds > itemsPerFrame {
		return 0, 0, 0, errWire
	}
	return t, nfds, int(n), nil
}

func appendBytes(b []byte, t tag, v []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

func appendString(b []byte, t tag, v string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

// setLength makes a record that was appended with no value as long as b, which begins with it.
func setLength(b []byte) { binary.BigEndian.PutUint32(b[2:], uint32(len(b)-6)) }

func appendUint32(b []byte, t tag, v uint32) []byte {
	return appendBytes(b, t, binary.BigEndian.AppendUint32(nil, v))
}

func appendUint64(b []byte, t tag, v uint64) []byte {
	return appendBytes(b, t, binary.BigEndian.AppendUint64(nil, v))
}

// parsePacket reads a frame that is all of a packet.
func parsePacket(p []byte) (frame, error) {
	if err := onePacket(p); err != nil {
		return frame{}, err
	}
	return frame{kind: frameType(p[0]), payload: p[frameHeader:]}, nil
}

// names makes the payload of a frame of names. Those that do not fit are left out.
func names(all []string) (b []byte) {
	for _, name := range all {
		if len(b)+len(name)+8 <= maxPayload {
			b = appendString(b, tagName, name)
		}
	}
	return b
}

// parseNames reads the names in a frame.
func parseNames(b []byte) (names []string, err error) {
	err = records(b, func(t tag, v []byte) error {
		if t == tagName {
			if len(v) == 0 || len(v) > maxName {
				return errWire
			}
			names = append(names, string(v))
		}
		return nil
	})
	return names, err
}

// records calls f for each record in b.
func records(b []byte, f func(t tag, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < 6 {
			return errWire
		}
		t, n := tag(binary.BigEndian.Uint16(b)), binary.BigEndian.Uint32(b[2:])
		b = b[6:]
		if uint64(n) > uint64(len(b)) {
			return errWire
		}
		if err := f(t, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func uint32Of(v []byte) (uint32, error) {
	if len(v) != 4 {
		return 0, errWire
	}
	return binary.BigEndian.Uint32(v), nil
}

func uint64Of(v []byte) (uint64, error) {
	if len(v) != 8 {
		return 0, errWire
	}
	return binary.BigEndian.Uint64(v), nil
}

func hello(name string, generation uint64) []byte {
	versions := binary.BigEndian.AppendUint16(nil, protocolVersion)
	versions = binary.BigEndian.AppendUint16(versions, protocolVersion)
	b := appendBytes(nil, tagVersions, versions)
	b = appendString(b, tagName, name)
	return appendUint64(b, tagGeneration, generation)
}

// parseHello checks that the other side speaks our version of the protocol for our service.
func parseHello(b []byte, name string) (generation uint64, err error) {
	var oldest, newest uint16
	var theirs string
	err = records(b, func(t tag, v []byte) (err error) {
		switch t {
		case tagVersions:
			if len(v) != 4 {
				return errWire
			}
			oldest, newest = binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(v[2:])
		case tagName:
			if len(v) > maxName {
				return errWire
			}
			theirs = string(v)
		case tagGeneration:
			generation, err = uint64Of(v)
		}
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case oldest > protocolVersion || newest < protocolVersion:
		return 0, errors.WithMessagef(ErrVersion, "it speaks %d to %d, we speak %d", oldest, newest, protocolVersion)
	case theirs != name:
		return 0, errors.WithMessagef(ErrName, "it is %q, we are %q", theirs, name)
	}
	return generation, nil
}

// abort says why, in words: what can be decided by a program is decided by the steps.
func abort(reason error) []byte {
	if reason == nil {
		return nil
	}
	text := reason.Error()
	return appendString(nil, tagReason, text[:min(len(text), maxReason)])
}

// parseAbort returns the other side's reason, nil if it gave none.
func parseAbort(b []byte) (reason error) {
	_ = records(b, func(t tag, v []byte) error {
		if t == tagReason {
			reason = errors.Errorf("the other side says: %.*q", maxReason, v)
		}
		return nil
	})
	return reason
}

// countOf reads a frame that holds a count.
func countOf(b []byte) (n int, err error) {
	n = -1
	err = records(b, func(t tag, v []byte) error {
		if t != tagCount {
			return nil
		}
		u, err := uint32Of(v)
		n = int(u)
		return err
	})
	if err == nil && (n < 0 || n > maxItems) {
		err = errors.WithMessagef(ErrProtocol, "a count of %d", n)
	}
	return n, err
}
