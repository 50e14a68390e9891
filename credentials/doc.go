// Package credentials tells who is at the other end of a local socket. There are two answers to
// that, and they are never mixed:
//
//   - who made or connected the socket, fixed at that moment: [Peer], [PeerGroups], [PeerLabel],
//     [PeerProcess]. On a connection to a path this is the client or the listener. On a socketpair
//     it is whoever called socketpair, on both ends and for ever, also when a child has inherited
//     one; it proves nothing there.
//   - who writes now: [Exchange], and the Sender of a message in package scm. Both ends of a pair or
//     a connection prove who they are with a message that the kernel stamps.
//
// A [Policy] decides whom to talk to, a [Listener] accepts nobody else. A [Process] pins a process
// by pidfd, so that a reused pid is told apart, and is closed by its owner. Connections are
// borrowed, everywhere.
//
// The package does not change ids or privileges of its own process. What it reads from a Process,
// such as its executable, is for logs: a process can become another program at any moment, and
// authorisation belongs to the ids of the moment of connecting.
package credentials
