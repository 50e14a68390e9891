//go:build linux

package credentials_test

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
)

func TestListener(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	plain, path := listen(t, "unix")
	ln := credentials.Listener(plain, credentials.SameUser())
	defer ln.Close()

	stranger := start(t, peer.CommandAs(t, 4200, 4201, nil))
	stranger.do("dial unix %s", path)
	stranger.do("write hello") // it is in the queue, and nobody reads it
	friend := start(t, peer.Command(t))
	friend.do("dial unix %s", path)

	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peerIs(t, conn.(*net.UnixConn), credentials.Cred{PID: friend.pid()})
	if t.Failed() {
		return
	}
	stranger.refuses(unix.ECONNRESET, "read") // closed with its word unread
}

func TestListenerOfPackets(t *testing.T) {
	testutil.NoLeaks(t)
	plain, path := listen(t, "unixpacket")
	ln := credentials.Listener(plain, credentials.Not(credentials.SameUser()))
	child := start(t, peer.Command(t))
	accepted := make(chan error)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	child.do("dial unixpacket %s", path)
	child.refuses(io.EOF, "read") // closed by Accept, which waits on
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	matches(t, <-accepted, net.ErrClosed)
}

// A policy that passes everybody whom it knows still refuses who has no credentials.
func TestListenerRefusesTCP(t *testing.T) {
	testutil.NoLeaks(t)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := credentials.Listener(plain, credentials.Not(credentials.Policy{}))
	accepted := make(chan error)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("read %d, %v, want the end", n, err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	matches(t, <-accepted, net.ErrClosed)
}

// Neither does one that hides its descriptor.
func TestListenerRefusesWhatHidesItsDescriptor(t *testing.T) {
	testutil.NoLeaks(t)
	plain, path := listen(t, "unix")
	ln := credentials.Listener(opaque{plain}, credentials.SameUser())
	if _, ok := ln.(syscall.Conn); ok {
		t.Error("it says to have a descriptor, and has none")
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted := make(chan error)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	ln.Close()
	matches(t, <-accepted, net.ErrClosed)
}

// opaque is a listener, and its connections are connections, and nothing else.
type opaque struct{ net.Listener }

func (o opaque) Accept() (net.Conn, error) {
	conn, err := o.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{conn}, nil
}

func TestListenerKeepsSyscallConn(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(folder(t), "socket")
	plain, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln := credentials.Listener(plain, credentials.SameUser())
	defer ln.Close()
	c, ok := ln.(syscall.Conn)
	if !ok {
		t.Fatal("no SyscallConn")
	}
	if option(t, c, unix.SO_ACCEPTCONN) != 1 {
		t.Error("its descriptor does not listen")
	}
	if ln.Addr().String() != path {
		t.Errorf("address %v", ln.Addr())
	}
}
