// Package handoff moves a running service from one process to another as a transaction: whoever
// crashes, at whatever step, one of the two goes on serving, and never both own the service.
//
// This is the protocol, for the two ends of any stream or SOCK_SEQPACKET connection of package scm:
// the process that serves calls [Offer], the one that wants to serve calls [Take]. Both make sure who
// the other is (the same user or root, unless told otherwise) and pin it by pidfd, so that a death
// is known from a silence and a reused pid deceives nobody. Linux 6.5.
//
// [Start] is the service that is made of it, which also knows service managers: it takes their sockets, and tells
// them what happens. A server calls Start, [Service.Listen], [Service.Serve] and [Service.Ready], waits for
// [Service.Stopping], and calls [Service.Drain]. It is replaced by whoever starts it again with the same
// [Options].Socket, by [Service.Upgrade], or by a signal of Options.UpgradeSignals.
//
// Offer borrows what it offers, Take gives. docs/protocol.md has the messages, and the table of who
// serves if either side dies at any step.
package handoff
