//go:build unix

package scm

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// What can happen to a message. An error of this package matches one of these with errors.Is, and
// the errno behind it, if there is one, as well.
var (
	// ErrTruncated: the message was longer than the buffer. It is dropped whole.
	ErrTruncated error = kind("message longer than the buffer")

	// ErrTooManyFiles: more descriptors came than the receiver asked for, or more than MaxFDs were to
	// be sent.
	ErrTooManyFiles error = kind("too many descriptors")

	// ErrFilesLost: the message came, but not all of its descriptors. The process is at its limit
	// (then the error matches EMFILE and names the limit), or a security module refused them.
	ErrFilesLost error = kind("descriptors lost on arrival")

	// ErrRefused: the other end does not accept descriptors (SO_PASSRIGHTS, see [Conn.SetPassRights]),
	// or a security module forbids sending them. Nothing was sent.
	ErrRefused error = kind("the other end refuses descriptors")

	// ErrInFlight: this user has too many descriptors in flight, sent and not yet received, over all
	// its sockets. Try again when the receivers have caught up. Nothing was sent.
	ErrInFlight error = kind("too many descriptors in flight")

	// ErrPeerGone: the other end is closed, or nobody is connected. EPIPE, ECONNRESET, ECONNREFUSED
	// and ENOTCONN are this one condition.
	ErrPeerGone error = kind("the other end is gone")

	// ErrTooLong: the message is longer than the socket takes in one piece, a little less than
	// SO_SNDBUF. Put what is big into a memfd and send that. Nothing was sent.
	ErrTooLong error = kind("message too long for the socket")

	// ErrEmpty: a message without a byte. A stream drops the descriptors of one, and on SOCK_SEQPACKET
	// one without descriptors looks like the end. Send at least one byte.
	ErrEmpty error = kind("empty message")

	// ErrNotSendable: a descriptor that cannot travel: not open, an io_uring, or the very socket that
	// it was to travel over, which the kernel would keep for ever. Nothing was sent.
	ErrNotSendable error = kind("this descriptor cannot be sent")

	// ErrBroken: an earlier message was sent in part on this stream when its deadline passed or the
	// connection failed. Nothing more can be sent that the other end would understand.
	ErrBroken error = kind("a message was cut off, the stream is broken for sending")

	// ErrMalformed: the control messages did not add up. No kernel is known to do this.
	ErrMalformed error = kind("malformed control data")

	// ErrNotUnix: the connection is not of the AF_UNIX namespace. Others ignore descriptors silently.
	ErrNotUnix = sysfd.ErrNotUnix

	// ErrListening: the socket listens and is not a connection.
	ErrListening = sysfd.ErrListening

	// ErrClaimed: an inherited number was claimed before in this process, see [Inherit].
	ErrClaimed = sysfd.ErrClaimed

	// ErrTaken: Take was called with a place that is empty: out of range, or taken before.
	ErrTaken error = kind("no such descriptor in the message, or taken already")
)

type kind string

func (k kind) Error() string { return "scm: " + string(k) }

// opError is a failed operation. It is made on failure only, so that the message path stays free
// of allocations.
type opError struct {
	op     string // "send", "receive"
	kind   error  // one of the above, or nil
	detail string // numbers that help, or ""
	cause  error  // what the system said, or nil
}

func (e *opError) Error() string {
	var b strings.Builder
	b.WriteString("scm: ")
	b.WriteString(e.op)
	if e.kind != nil {
		b.WriteString(": ")
		b.WriteString(strings.TrimPrefix(e.kind.Error(), "scm: "))
	}
	if e.detail != "" {
		b.WriteString(": ")
		b.WriteString(e.detail)
	}
	if e.cause != nil {
		b.WriteString(": ")
		b.WriteString(e.cause.Error())
	}
	return b.String()
}

func (e *opError) Unwrap() []error {
	switch {
	case e.kind == nil:
		return []error{e.cause}
	case e.cause == nil:
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// gone reports whether errno is one of the four names of ErrPeerGone.
func gone(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTCONN)
}
