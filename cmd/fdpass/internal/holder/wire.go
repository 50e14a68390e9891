package holder

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/pkg/errors"
)

// The protocol of s6-fdholder, pure. A frame is u32 length of the payload, u16 number of descriptors, and
// the payload; numbers are big endian. All descriptors of a frame come with its first byte.

const (
	headerSize = 6
	maxFDs     = 253 // of a frame: what the kernel takes in one message
	maxName    = 255

	// maxRequest is the longest payload of a client: maxFDs entries.
	maxRequest = 1 + maxFDs*(tainSize+1+maxName+1)

	// maxUnread is what else may have been read when a holder hands over.
	maxUnread = 64 << 10

	// maxAnswer is the longest payload of a holder: the names of all that a holder can have.
	maxAnswer = 5 + 1<<16*(maxName+1)
)

// The requests, each the first byte of a payload.
const (
	opStore    = 'S'
	opDelete   = 'D'
	opRetrieve = 'R'
	opList     = 'L'
	opDump     = '?'
	opRestore  = '!'
	opEntries  = '.' // the entries of a restore, after the answer to it

	// Ours: a holder that has handed over passes its connections on to its successor.
	opUnread = 'u' // what was read from the connection that follows and not yet answered
	opAdopt  = 'A' // the connection
)

// A request is a payload of a client.
type request struct {
	op      byte
	name    string  // S D R
	expiry  Tain    // S
	remove  bool    // R: and forget it
	count   int     // !: entries to come. u: those still to come of a restore
	entries []Entry // .
	unread  []byte  // u
}

// An Entry says what a descriptor of a dump is.
type Entry struct {
	Name   string
	Expiry Tain
}

var errMalformed = errors.WithMessage(ErrProtocol, "a malformed frame")

// parseHeader reads a frame's header, of headerSize bytes.
func parseHeader(b []byte, limit int) (size, nfds int, err error) {
	n, nfds := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint16(b[4:]))
	if uint64(n) > uint64(limit) || nfds > maxFDs {
		return 0, 0, errors.WithMessagef(ErrProtocol, "a frame of %d bytes and %d descriptors", n, nfds)
	}
	return int(n), nfds, nil
}

func appendHeader(b []byte, size, nfds int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return binary.BigEndian.AppendUint16(b, uint16(nfds))
}

// checkName returns an error for what cannot be a name.
func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
		return ErrName
	}
	return nil
}

// appendName appends length, name and NUL.
func appendName(b []byte, name string) []byte {
	b = append(b, byte(len(name)))
	b = append(b, name...)
	return append(b, 0)
}

// parseName is the inverse of appendName.
func parseName(b []byte) (name string, rest []byte, err error) {
	if len(b) == 0 {
		return "", nil, errMalformed
	}
	n := int(b[0])
	if len(b) < n+2 || b[n+1] != 0 {
		return "", nil, errMalformed
	}
	name = string(b[1 : n+1])
	if checkName(name) != nil {
		return "", nil, errMalformed
	}
	return name, b[n+2:], nil
}

func appendEntry(b []byte, e Entry) []byte {
	return appendName(appendTain(b, e.Expiry), e.Name)
}

// parseEntries reads exactly n entries.
func parseEntries(b []byte, n int) ([]Entry, error) {
	if len(b) < n*(tainSize+3) {
		return nil, errMalformed
	}
	entries := make([]Entry, n)
	for i := range entries {
		if len(b) < tainSize {
			return nil, errMalformed
		}
		e := &entries[i]
		e.Expiry = parseTain(b)
		var err error
		if e.Name, b, err = parseName(b[tainSize:]); err != nil {
			return nil, err
		}
	}
	if len(b) > 0 {
		return nil, errMalformed
	}
	return entries, nil
}

// append appends the request's payload.
func (r *request) append(b []byte) []byte {
	b = append(b, r.op)
	switch r.op {
	case opStore:
		b = appendEntry(b, Entry{r.name, r.expiry})
	case opDelete:
		b = appendName(b, r.name)
	case opRetrieve:
		remove := byte(0)
		if r.remove {
			remove = 1
		}
		b = appendName(append(b, remove), r.name)
	case opRestore:
		b = binary.BigEndian.AppendUint32(b, uint32(r.count))
	case opEntries:
		for _, e := range r.entries {
			b = appendEntry(b, e)
		}
	case opUnread:
		b = binary.BigEndian.AppendUint32(b, uint32(r.count))
		b = append(b, r.unread...)
	}
	return b
}

// parseRequest reads a client's payload, which came with nfds descriptors. The result keeps nothing of p
// but unread.
func parseRequest(p []byte, nfds int) (r request, err error) {
	if len(p) == 0 {
		return r, errMalformed
	}
	r.op = p[0]
	p = p[1:]
	want := 0 // descriptors
	switch r.op {
	case opStore:
		want = 1
		if len(p) < tainSize {
			return r, errMalformed
		}
		r.expiry = parseTain(p)
		r.name, p, err = parseName(p[tainSize:])
	case opDelete:
		r.name, p, err = parseName(p)
	case opRetrieve:
		if len(p) == 0 {
			return r, errMalformed
		}
		r.remove = p[0] != 0
		r.name, p, err = parseName(p[1:])
	case opList, opDump:
	case opRestore:
		r.count, p, err = parseCount(p)
	case opEntries:
		want = max(nfds, 1)
		r.entries, err = parseEntries(p, nfds)
		p = nil
	case opUnread:
		want = nfds
		r.count, r.unread, err = parseCount(p)
		p = nil
	case opAdopt:
		want = 1
	default:
		return r, errors.WithMessagef(ErrProtocol, "request %q is unknown", r.op)
	}
	if err == nil && (len(p) > 0 || nfds != want) {
		err = errMalformed
	}
	return r, err
}

func parseCount(p []byte) (n int, rest []byte, err error) {
	if len(p) < 4 {
		return 0, nil, errMalformed
	}
	// More than a holder can have is as many as it can have, on 32 bits too.
	return int(min(binary.BigEndian.Uint32(p), 1<<30)), p[4:], nil
}

// trips is how many frames n descriptors take.
func trips(n int) int { return (n + maxFDs - 1) / maxFDs }

// parseList reads the names of an answer to list, behind its status.
func parseList(p []byte) ([]string, error) {
	n, p, err := parseCount(p)
	if err != nil || n > len(p)/2 {
		return nil, errMalformed
	}
	names := make([]string, n)
	for i := range names {
		end := bytes.IndexByte(p, 0)
		if end < 1 || end > maxName {
			return nil, errMalformed
		}
		names[i], p = string(p[:end]), p[end+1:]
	}
	if len(p) > 0 {
		return nil, errMalformed
	}
	return names, nil
}

// parseDump reads the number of entries that follow the answer to dump, behind its status. In how many
// frames they come is the holder's affair.
func parseDump(p []byte) (total int, err error) {
	if len(p) != 8 {
		return 0, errMalformed
	}
	total, _, err = parseCount(p[4:])
	return total, err
}
