package main

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/scm"
)

func init() {
	domains[unix.AF_NETLINK] = "netlink"
	domains[unix.AF_PACKET] = "packet"
	domains[unix.AF_VSOCK] = "vsock"
}

var seals = []struct {
	bit  int
	name string
}{
	{unix.F_SEAL_SEAL, "seal"}, {unix.F_SEAL_SHRINK, "shrink"}, {unix.F_SEAL_GROW, "grow"},
	{unix.F_SEAL_WRITE, "write"}, {unix.F_SEAL_FUTURE_WRITE, "future-write"}, {unix.F_SEAL_EXEC, "exec"},
}

func sealNames(set int) (names []string) {
	for _, s := range seals {
		if set&s.bit != 0 {
			names = append(names, s.name)
		}
	}
	return names
}

// queues asks how much waits in the queues of a pipe or socket: ioctl_pipe(2), unix(7), tcp(7).
func queues(fd int, d *descriptor) {
	ask := func(request uint) *int {
		if n, err := unix.IoctlGetInt(fd, request); err == nil {
			return &n
		}
		return nil
	}
	switch {
	case d.Kind == scm.Pipe && d.Access != "path":
		d.Unread = ask(unix.TIOCINQ)
	case d.Socket == nil:
	case !d.Socket.Listening:
		d.Unread, d.Unsent = ask(unix.TIOCINQ), ask(unix.TIOCOUTQ)
	case strings.HasSuffix(d.Socket.Protocol, "tcp"): // mptcp, as package net listens by default, too
		// For a listener these two are the accept queue.
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			queue, backlog := int(info.Unacked), int(info.Sacked)
			d.Socket.Queue, d.Socket.Backlog = &queue, &backlog
		}
	}
}
