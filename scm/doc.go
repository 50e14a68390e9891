// Package scm sends and receives messages that carry descriptors: SCM_RIGHTS ancillary data over
// an AF_UNIX socket, see unix(7) and cmsg(3). A file, a listener, a connection, anything open
// travels to another process and means the same open file there.
//
// [NewConn] takes a connection over, [Pair] makes two connected ones, [Inherit] is for a child.
// [Conn.Send] and [Conn.Receive] are the everyday tier: Send borrows what it is given, Receive
// gives a [Message], and what nobody took out of its [Files] dies with [Message.Close]. Brokers
// that move very many use the raw tier, [Conn.SendFDs], [Conn.ReceiveFDs] and the batches, which
// allocate nothing and deal in numbers. [Inspect] tells what a descriptor is.
//
// A message arrives whole or as an error that says what happened to it, and with an error
// everything that had arrived is closed already. Descriptors are close-on-exec, in the order in
// which they were sent, and never 0, 1 or 2. No call turns anybody's socket to blocking mode.
//
// scm adds no byte to the wire, so any program can be the peer, and it does no framing either: on
// a stream socket the caller must know where its records end. A SOCK_SEQPACKET pair does that by
// itself. A Conn does not say who is at the other end; that is package credentials.
package scm
