//go:build unix

package credentials

import (
	"net"
	"syscall"
)

// Listener takes ln over and returns a listener whose Accept returns only peers that p passes. The
// others are closed at once, before a byte of theirs is read or one is sent to them, and Accept
// goes on waiting; so are connections that have no peer credentials at all, such as TCP.
//
// The result has the SyscallConn of ln if ln has one.
func Listener(ln net.Listener, p Policy) net.Listener {
	l := &listener{ln, p}
	if c, ok := ln.(syscall.Conn); ok {
		return &syscallListener{l, c}
	}
	return l
}

type listener struct {
	net.Listener
	policy Policy
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, ok := conn.(syscall.Conn); ok && l.policy.Check(c) == nil {
			return conn, nil
		}
		_ = conn.Close()
	}
}

type syscallListener struct {
	*listener
	syscall.Conn
}
