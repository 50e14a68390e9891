//go:build linux

package scm_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// pass sends f over a pair and returns what arrives.
func pass(t *testing.T, conns ...syscall.Conn) scm.Message {
	t.Helper()
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := a.Send([]byte("x"), conns...); err != nil {
		t.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 10), len(conns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestTake(t *testing.T) {
	testutil.NoLeaks(t)
	f := files(t, 3)
	m := pass(t, f[0], f[1], f[2])
	if m.Files.Len() != 3 {
		t.Fatalf("%d files", m.Files.Len())
	}
	got := m.Files.Take(1)
	if got == nil || !testutil.SameFile(t, numbers([]*os.File{got})[0], numbers(f)[1]) {
		t.Error("Take(1) is another file")
	}
	defer got.Close()
	for _, i := range []int{1, -1, 3, 99} {
		if m.Files.Take(i) != nil || m.Files.TakeFD(i) != -1 {
			t.Errorf("Take(%d) took something", i)
		}
		if _, err := m.Files.TakeListener(i); !errors.Is(err, scm.ErrTaken) {
			t.Errorf("TakeListener(%d): %v", i, err)
		}
	}
	if info, err := scm.Inspect(m.Files.Lend(0)); err != nil || info.Kind != scm.MemFD {
		t.Errorf("Inspect(0): %v, %v", info.Kind, err)
	}
	if m.Files.Lend(1) != nil || m.Files.Lend(99) != nil {
		t.Error("lent what was taken")
	}
	lent := m.Files.Lend(2)
	again := pass(t, lent) // a broker sends it on
	sentOn := again.Files.TakeFD(0)
	if !testutil.SameFile(t, sentOn, numbers(f)[2]) {
		t.Error("another file was sent on")
	}
	unix.Close(sentOn)
	other := m // a copy shares what is taken
	fd := other.Files.TakeFD(0)
	if fd < 3 || m.Files.TakeFD(0) != -1 {
		t.Error("taken twice")
	}
	unix.Close(fd)
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if m.Files.Take(2) != nil {
		t.Error("taken after Close")
	}
	if _, err := got.Write([]byte("x")); err != nil {
		t.Errorf("Close closed what was taken: %v", err)
	}
	if err := (*scm.Files)(nil).Close(); err != nil {
		t.Error(err)
	}
	if err := (*scm.Message)(nil).Close(); err != nil {
		t.Error(err)
	}
	if err := new(scm.Message).Close(); err != nil {
		t.Error(err)
	}
}

// What package net would wrap into something that never works is refused, and stays in the message.
func TestTakeRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	ln := listener(t)
	dead := listener(t)
	_ = sysfd.Control(dead, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) })
	path := filepath.Join(testutil.ShortDir(t), "s")
	unixDead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unixDead.Close()
	_ = sysfd.Control(unixDead.(*net.UnixListener), func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) })
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	packet, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	fresh, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unconnected := os.NewFile(uintptr(fresh), "tcp")
	defer unconnected.Close()

	m := pass(t, files(t, 1)[0], ln, dead, unixDead.(*net.UnixListener), conn.(*net.TCPConn), packet.(*net.UDPConn), unconnected)
	const file, listens, shut, unixShut, connected, udp, fromNowhere = 0, 1, 2, 3, 4, 5, 6
	for _, row := range []struct {
		what string
		take func(int) error
		i    int
		want error
	}{
		{"a file as a listener", takeListener(&m.Files), file, unix.ENOTSOCK},
		{"a file as a connection", takeConn(&m.Files), file, unix.ENOTSOCK},
		{"a file as a packet socket", takePacketConn(&m.Files), file, unix.ENOTSOCK},
		{"a connection as a listener", takeListener(&m.Files), connected, unix.EINVAL},
		{"an unconnected socket as a listener", takeListener(&m.Files), fromNowhere, unix.EINVAL},
		{"a TCP listener that was shut down", takeListener(&m.Files), shut, unix.EINVAL},
		{"a Unix listener that was shut down", takeListener(&m.Files), unixShut, unix.EINVAL},
		{"a listener as a connection", takeConn(&m.Files), listens, unix.EINVAL},
		{"an unconnected socket as a connection", takeConn(&m.Files), fromNowhere, unix.ENOTCONN},
		{"a listener as a packet socket", takePacketConn(&m.Files), listens, unix.EINVAL},
	} {
		if err := row.take(row.i); !errors.Is(err, row.want) {
			t.Errorf("%s: %v", row.what, err)
		}
	}
	if err := takePacketConn(&m.Files)(connected); err == nil {
		t.Error("a TCP connection was taken as a packet socket")
	}
	for what, err := range map[string]error{
		"the listener":      takeListener(&m.Files)(listens),
		"the connection":    takeConn(&m.Files)(connected),
		"the packet socket": takePacketConn(&m.Files)(udp),
	} {
		if err != nil {
			t.Errorf("%s is not in the message any more: %v", what, err)
		}
	}
}

func takeListener(f *scm.Files) func(int) error {
	return func(i int) error {
		ln, err := f.TakeListener(i)
		if err != nil {
			return err
		}
		return ln.Close()
	}
}

func takeConn(f *scm.Files) func(int) error {
	return func(i int) error {
		c, err := f.TakeConn(i)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

func takePacketConn(f *scm.Files) func(int) error {
	return func(i int) error {
		c, err := f.TakePacketConn(i)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// A taken listener serves: connections that came before it was taken, and after the first owner
// closed its copy. A Unix listener does not take its path along when it is closed.
func TestTakeListenerServes(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	for _, network := range []struct{ name, address string }{{"tcp", "127.0.0.1:0"}, {"unix", path}} {
		ln, err := net.Listen(network.name, network.address)
		if err != nil {
			t.Fatal(err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		early, err := net.Dial(network.name, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		m := pass(t, ln.(syscall.Conn))
		ln.Close()
		got, err := m.Files.TakeListener(0)
		if err != nil {
			t.Fatal(err)
		}
		late, err := net.Dial(network.name, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c, err := got.Accept()
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		early.Close()
		late.Close()
		got.Close()
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the path of the listener: %v", err)
	}
}

// Taking as a connection needs a second number for a moment.
func TestTakeWithFullTable(t *testing.T) {
	testutil.NoLeaks(t)
	m := pass(t, listener(t))
	empty := testutil.FillTable(t, 0)
	err := takeListener(&m.Files)(0)
	empty()
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("full table: %v", err)
	}
	if err := takeListener(&m.Files)(0); err != nil {
		t.Errorf("and then: %v", err)
	}
}
