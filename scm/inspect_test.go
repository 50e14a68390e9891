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

func TestInspectKinds(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	open := func(fd int, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "test")
		t.Cleanup(func() { f.Close() })
		return f
	}
	path := func(name string, flags int) *os.File {
		return open(unix.Open(name, flags|unix.O_CLOEXEC, 0o600))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := os.Symlink("x", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	kinds := map[scm.Kind]*os.File{
		scm.File:         path(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_RDWR),
		scm.Directory:    path(dir, unix.O_RDONLY),
		scm.Pipe:         r,
		scm.Terminal:     path("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY),
		scm.CharDevice:   path("/dev/null", unix.O_RDWR),
		scm.MemFD:        files(t, 1)[0],
		scm.PIDFD:        open(unix.PidfdOpen(os.Getpid(), 0)),
		scm.Epoll:        open(unix.EpollCreate1(unix.EPOLL_CLOEXEC)),
		scm.EventFD:      open(unix.Eventfd(0, unix.EFD_CLOEXEC)),
		scm.TimerFD:      open(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)),
		scm.SignalFD:     open(unix.Signalfd(-1, new(unix.Sigset_t), unix.SFD_CLOEXEC)),
		scm.Inotify:      open(unix.InotifyInit1(unix.IN_CLOEXEC)),
		scm.Namespace:    path("/proc/self/ns/net", unix.O_RDONLY),
		scm.SymbolicLink: path(filepath.Join(dir, "link"), unix.O_PATH|unix.O_NOFOLLOW),
	}
	if fd, err := testutil.IOURingSetup(); err == nil {
		kinds[scm.IOURing] = open(fd, nil)
	}
	for want, f := range kinds {
		info, err := scm.Inspect(f)
		if err != nil || info.Kind != want || info.Socket != nil {
			t.Errorf("%s: %+v, %v", want, info, err)
		}
	}
	closed := files(t, 1)[0]
	closed.Close()
	if _, err := scm.Inspect(closed); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed file: %v", err)
	}
}

func TestInspectModes(t *testing.T) {
	testutil.NoLeaks(t)
	name := filepath.Join(t.TempDir(), "f")
	for _, row := range []struct {
		flags int
		want  scm.Info
	}{
		{unix.O_RDONLY | unix.O_CREAT, scm.Info{Readable: true}},
		{unix.O_WRONLY | unix.O_APPEND, scm.Info{Writable: true, Append: true}},
		{unix.O_RDWR | unix.O_NONBLOCK, scm.Info{Readable: true, Writable: true, Nonblocking: true}},
		{unix.O_PATH, scm.Info{Path: true}},
	} {
		fd, err := unix.Open(name, row.flags|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		got, err := scm.Inspect(f)
		f.Close()
		want := row.want
		want.Kind, want.Name, want.Dev, want.Ino, want.Sealed = scm.File, name, got.Dev, got.Ino, got.Sealed
		if got != want || err != nil || got.Ino == 0 {
			t.Errorf("flags %o: %+v, %v", row.flags, got, err)
		}
	}
	f := files(t, 1)[0]
	fd, err := unix.MemfdCreate("sealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	sealed := os.NewFile(uintptr(fd), "memfd")
	defer sealed.Close()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_WRITE); err != nil {
		t.Fatal(err)
	}
	if info, err := scm.Inspect(sealed); err != nil || info.Sealed != unix.F_SEAL_SHRINK|unix.F_SEAL_WRITE {
		t.Errorf("sealed: %+v, %v", info, err)
	}
	if info, err := scm.Inspect(f); err != nil || info.Sealed&unix.F_SEAL_SHRINK != 0 {
		t.Errorf("not sealed: %+v, %v", info, err)
	}
}

func TestInspectSockets(t *testing.T) {
	testutil.NoLeaks(t)
	ln := listener(t)
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
	path := filepath.Join(testutil.ShortDir(t), "s")
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	a, b, err := socketpair.New(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	inspect := func(c any) *scm.SocketInfo {
		t.Helper()
		info, err := scm.Inspect(c.(syscall.Conn))
		if err != nil || info.Kind != scm.Socket || info.Socket == nil {
			t.Fatalf("%+v, %v", info, err)
		}
		if info.Socket.Cookie == 0 || info.Socket.NetNS == 0 || !info.Readable || !info.Writable || !info.Nonblocking {
			t.Errorf("%+v", info)
		}
		return info.Socket
	}
	// Package net listens with MPTCP where the kernel has it.
	if s := inspect(ln); !s.Listening || s.ShutDown || s.Domain != unix.AF_INET || s.Style != socketpair.Stream || s.Protocol != unix.IPPROTO_TCP && s.Protocol != unix.IPPROTO_MPTCP || s.Local.String() != ln.Addr().String() || s.Remote != nil {
		t.Errorf("TCP listener: %+v", s)
	}
	if s := inspect(conn); s.Listening || s.ShutDown || s.Local.String() != conn.LocalAddr().String() || s.Remote.String() != conn.RemoteAddr().String() {
		t.Errorf("TCP connection: %+v", s)
	}
	if s := inspect(packet); s.Listening || s.Style != socketpair.Datagram || s.Protocol != unix.IPPROTO_UDP || s.Local.String() != packet.LocalAddr().String() || s.Remote != nil {
		t.Errorf("UDP socket: %+v", s)
	}
	if s := inspect(local); !s.Listening || s.ShutDown || s.Domain != unix.AF_UNIX || s.Local.String() != path {
		t.Errorf("Unix listener: %+v", s)
	}
	if s := inspect(a); s.Listening || s.ShutDown || s.Style != socketpair.SeqPacket || s.Local != nil || s.Remote != nil {
		t.Errorf("an end of a pair: %+v", s)
	}
	b.Close()
	if s := inspect(a); !s.ShutDown {
		t.Errorf("an end of a pair whose other end is closed: %+v", s)
	}
	_ = sysfd.Control(local.(*net.UnixListener), func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
	if s := inspect(local); !s.Listening || !s.ShutDown {
		t.Errorf("a Unix listener that was shut down: %+v", s)
	}
}
