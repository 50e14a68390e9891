//go:build unix

package socketpair

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A Style is a communication style of the C library: how a socket cuts what is written to it.
type Style int

const (
	// Stream is SOCK_STREAM: bytes in order, with no boundaries between writes.
	Stream Style = unix.SOCK_STREAM

	// Datagram is SOCK_DGRAM: messages. On a pair each end is the other's default destination. An
	// end learns that the other was closed only from a failed send, and CloseWrite does not reach
	// the other end at all: prefer SeqPacket.
	Datagram Style = unix.SOCK_DGRAM

	// SeqPacket is SOCK_SEQPACKET: messages, in order, over a connection that has an end. The style
	// for a control channel. Absent on macOS.
	SeqPacket Style = unix.SOCK_SEQPACKET
)

// String returns the constant's name in C, such as "SOCK_STREAM".
func (s Style) String() string {
	switch s {
	case Stream:
		return "SOCK_STREAM"
	case Datagram:
		return "SOCK_DGRAM"
	case SeqPacket:
		return "SOCK_SEQPACKET"
	case unix.SOCK_RAW:
		return "SOCK_RAW"
	case unix.SOCK_RDM:
		return "SOCK_RDM"
	}
	return fmt.Sprintf("style %d", int(s))
}
