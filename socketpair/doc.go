// Package socketpair builds local-namespace pairs: two connected AF_UNIX sockets without a name,
// full duplex, as socketpair(2) makes them. They are the shortest way to a child process, and the
// channel that packages scm, credentials and handoff work over.
//
// [New] gives two *net.UnixConn for one process, [ForChild] one for this process and a file for
// [os/exec.Cmd.ExtraFiles], [Inherit] is the child's side of it. [Create] is the C library's whole
// function, for any namespace, style and protocol.
//
// The caller owns both ends and closes them. Every end is born close-on-exec, and no call here
// turns a socket of yours to blocking mode. After an error nothing is left open.
//
// A pair says nothing about who is at its other end: SO_PEERCRED names the process that called
// socketpair, for ever and on both ends, also after a child inherited one. Use
// credentials.Exchange. A plain Read or io.Copy destroys descriptors that travel with the bytes;
// use package scm where there may be some.
package socketpair
