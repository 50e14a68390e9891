// Package systemd is a service's side of the service manager's protocols: descriptors in, notifications
// out, and both again towards a child of one's own.
//
// [Inherited] gives the sockets and files that the manager passed in, sd_listen_fds(3): the sockets of
// the unit, and what an earlier process of it had put into the descriptor store. [Notify] tells the
// manager that the service is ready, reloads or stops, sd_notify(3); [Barrier] waits until it has heard
// that; [Store] leaves descriptors with it for the next process. [Start] passes descriptors to a child
// that may be any program, and [ListenNotify] hears what it has to say.
//
// None of it needs systemd: any program that speaks the protocols can be at the other end, and without
// one nothing is inherited and nothing is sent, which is no error.
//
// Descriptors are close-on-exec from Inherited on. What a caller takes is the caller's, what nobody
// takes stays open, and nothing is ever unlinked: a path belongs to the manager's socket unit. A socket
// that is taken as a listener or connection becomes nonblocking, for everybody who has it. systemd does
// not accept on it meanwhile (but for Accept=yes, where the service never gets it), so only a program
// that serves the same socket after this one, or beside it, can notice.
package systemd
