//go:build unix

package scm

import "github.com/fdkit/fdkit/credentials"

// A Message is what Receive gives to its caller.
type Message struct {
	// Data is the part of the buffer given to Receive that was filled.
	Data []byte

	// Files are the descriptors that came with it, in the order of the sender.
	Files Files

	// Sender is who wrote the message, if the Conn was told to ask ([Conn.SetPassCred]) and the
	// kernel knows; else nil. This is the writer, not the one who connected the socket.
	Sender *credentials.Sender
}

// Close closes what nobody took out of Files, and the process of Sender. It works twice, and on the
// zero Message.
func (m *Message) Close() error {
	if m == nil {
		return nil
	}
	_ = m.Sender.Close()
	return m.Files.Close()
}
