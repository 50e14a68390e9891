//go:build linux

package credentials_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

func peerIs(t testing.TB, c *net.UnixConn, want credentials.Cred) {
	t.Helper()
	got, err := credentials.Peer(c)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the peer is %v, want %v", got, want)
	}
}

// A pair names its creator at both ends, in whatever process they are.
func TestPeerOfPair(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			peerIs(t, a, credentials.Self())
			peerIs(t, b, credentials.Self())

			child, conn := startWith(t, peer.Command(t), style)
			peerIs(t, conn, credentials.Self())
			if got := child.do("peer"); got != credentials.Self().String() {
				t.Errorf("the child sees %s, want its parent", got)
			}
		})
	}
}

func TestPeerOfPath(t *testing.T) {
	for _, style := range []socketpair.Style{socketpair.Stream, socketpair.SeqPacket} {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			cmd, want := as(t, os.Geteuid() == 0)
			child, conn := dialled(t, cmd, network[style])
			want.PID = child.pid()
			peerIs(t, conn, want)
			if got := child.do("peer"); got != credentials.Self().String() {
				t.Errorf("the client sees %s, want who listened", got)
			}
		})
	}
}

func TestPeerOfClientIsWhoListened(t *testing.T) {
	testutil.NoLeaks(t)
	cmd, want := as(t, os.Geteuid() == 0)
	child := start(t, cmd)
	path := filepath.Join(folder(t), "socket")
	child.do("listen unix %s", path)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want.PID = child.pid()
	peerIs(t, conn, want) // nobody has accepted yet
}

// SO_PEERCRED has the effective ids of the moment of connect(2), a stamp the real ones.
func TestPeerIsEffectiveAndExchangeReal(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	ln, path := listen(t, "unix")
	child := start(t, peer.CommandAs(t, 0, 0, nil))
	child.do("ids 4231 4232 4233")
	child.do("dial unix %s", path)
	conn := accept(t, ln)
	peerIs(t, conn, credentials.Cred{PID: child.pid(), UID: 4232, GID: 4235})

	child.tell("exchange")
	s, err := credentials.Exchange(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	child.answer()
	if want := (credentials.Cred{PID: child.pid(), UID: 4231, GID: 4234}); s.Cred != want {
		t.Errorf("the sender is %v, want %v", s.Cred, want)
	}
}

func TestPeerStaysAfterSetuid(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	child, conn := dialled(t, peer.CommandAs(t, 0, 0, nil), "unix")
	child.do("ids 4231 4231 4231")
	peerIs(t, conn, credentials.Cred{PID: child.pid()})
}

// noPeers are sockets that have none, and a pipe.
func noPeers(t *testing.T, test func(t *testing.T, c syscall.Conn, want error)) {
	file := func(t *testing.T, domain, style int) *os.File {
		fd, err := unix.Socket(domain, style|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	unbound := func(t *testing.T) syscall.Conn { return file(t, unix.AF_UNIX, unix.SOCK_STREAM) }
	rows := []struct {
		name string
		want error
		make func(t *testing.T) syscall.Conn
	}{
		{"unconnected", credentials.ErrNoPeer, unbound},
		{"unconnected datagram", credentials.ErrNoPeer, func(t *testing.T) syscall.Conn {
			return file(t, unix.AF_UNIX, unix.SOCK_DGRAM)
		}},
		{"TCP", credentials.ErrNoPeer, func(t *testing.T) syscall.Conn {
			a, _ := tcp(t)
			return a
		}},
		{"netlink", credentials.ErrNoPeer, func(t *testing.T) syscall.Conn {
			return file(t, unix.AF_NETLINK, unix.SOCK_RAW)
		}},
		{"listener", credentials.ErrNoPeer, func(t *testing.T) syscall.Conn {
			ln, _ := listen(t, "unix")
			return ln
		}},
		{"listener in a UnixConn", credentials.ErrNoPeer, func(t *testing.T) syscall.Conn {
			ln, _ := listen(t, "unix")
			f, err := ln.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			c, err := net.FileConn(f)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c.(*net.UnixConn)
		}},
		{"datagram connected to a path", credentials.ErrNoPeer, func(t *testing.T) syscall.Conn {
			path := filepath.Join(folder(t), "socket")
			server, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { server.Close() })
			c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}},
		{"pipe", unix.ENOTSOCK, func(t *testing.T) syscall.Conn {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				r.Close()
				w.Close()
			})
			return r
		}},
		{"closed", net.ErrClosed, func(t *testing.T) syscall.Conn {
			a, _ := pair(t, socketpair.Stream)
			a.Close()
			return a
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			testutil.NoLeaks(t)
			test(t, row.make(t), row.want)
		})
	}
}

func tcp(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = ln.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func TestNoPeer(t *testing.T) {
	noPeers(t, func(t *testing.T, c syscall.Conn, want error) {
		cred, err := credentials.Peer(c)
		matches(t, err, want)
		if cred != (credentials.Cred{}) {
			t.Errorf("with the error came %v", cred)
		}
		_, err = credentials.PeerGroups(c)
		matches(t, err, want)
		p, err := credentials.PeerProcess(c)
		matches(t, err, want)
		if p != nil {
			t.Error("with the error came a process")
		}
	})
}

func TestPeerOfGonePeer(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := pair(t, socketpair.Stream)
	b.Close()
	peerIs(t, a, credentials.Self())
}

func TestPeerGroups(t *testing.T) {
	testutil.NeedRoot(t)
	many := make([]uint32, 100) // more than the first buffer has room for
	for i := range many {
		many[i] = 5000 + uint32(i)
	}
	rows := []struct {
		name       string
		give, want []uint32
	}{
		{"none", nil, nil},
		{"two", []uint32{4203, 4202}, []uint32{4202, 4203}},
		{"primary as well", []uint32{4201, 4202}, []uint32{4201, 4202}},
		{"100", many, many},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			testutil.NoLeaks(t)
			child, conn := dialled(t, peer.CommandAs(t, 4200, 4201, row.give), "unix")
			peerIs(t, conn, credentials.Cred{PID: child.pid(), UID: 4200, GID: 4201})
			if err := child.end(); err != nil { // the list survives its process
				t.Fatal(err)
			}
			got, err := credentials.PeerGroups(conn)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestPeerGroupsOfPair(t *testing.T) {
	testutil.NoLeaks(t)
	a, _ := pair(t, socketpair.Stream)
	got, err := credentials.PeerGroups(a)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(groups)
	same := func(a uint32, b int) int { return int(a) - b }
	if slices.CompareFunc(got, groups, same) != 0 {
		t.Errorf("got %v, want our own %v", got, groups)
	}
}

func TestPeerLabel(t *testing.T) {
	testutil.NoLeaks(t)
	a, _ := pair(t, socketpair.Stream)
	label, err := credentials.PeerLabel(a)
	if (label == "") == (err == nil) {
		t.Errorf("got %q and %v", label, err)
	}
	if err != nil {
		matches(t, err, errors.ErrUnsupported, unix.ENOPROTOOPT)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, err = credentials.PeerLabel(r)
	matches(t, err, unix.ENOTSOCK)
}

func TestPeerProcess(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.Need(t, testutil.PassPIDFD)
	testutil.Need(t, testutil.PIDFDInfo)
	child, conn := dialled(t, peer.Command(t), "unix")
	p, err := credentials.PeerProcess(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	id := p.ID()
	if id == (credentials.ProcessID{}) || id != open(t, child.pid()).ID() || p.PID() != child.pid() {
		t.Errorf("pid %d has ID %v, want pid %d with %v", p.PID(), id, child.pid(), open(t, child.pid()).ID())
	}
	if id == open(t, os.Getpid()).ID() {
		t.Error("we have the same ID")
	}
	if !p.Alive() {
		t.Error("it is not alive")
	}
	if err := p.Signal(0); err != nil {
		t.Error(err)
	}
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	if self := credentials.Self(); info.PID != child.pid() || info.ParentPID != self.PID || info.EffectiveUID != self.UID ||
		info.RealGID != self.GID || info.Exited {
		t.Errorf("info is %+v", info)
	}
	if exe, err := p.Exe(); err != nil || exe != child.Path {
		t.Errorf("runs %q, %v, want %q", exe, err, child.Path)
	}

	child.tell("exit 3")
	_ = child.end() // reaped
	if p.Alive() {
		t.Error("it is alive after its end")
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	matches(t, p.Signal(0), os.ErrProcessDone)
	_, err = p.Exe()
	matches(t, err, os.ErrProcessDone)
	if p.ID() != id {
		t.Errorf("the ID has become %v", p.ID())
	}
	info, err = p.Info()
	if err != nil { // before Linux 6.15
		matches(t, err, os.ErrProcessDone)
	} else if !info.Exited || info.Status.ExitStatus() != 3 {
		t.Errorf("info is %+v, want an end with status 3", info)
	}

	// Asked only now.
	late, err := credentials.PeerProcess(conn)
	if err != nil { // before Linux 6.16
		matches(t, err, credentials.ErrPeerGone)
		return
	}
	defer late.Close()
	if late.Alive() || late.ID() != id {
		t.Errorf("alive %v, ID %v, want dead and %v", late.Alive(), late.ID(), id)
	}
}

func TestPeerAtDescriptorLimit(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.Need(t, testutil.PassPIDFD)
	a, _ := pair(t, socketpair.Stream)
	empty := testutil.FillTable(t, 0)
	_, cerr := credentials.Peer(a)
	p, err := credentials.PeerProcess(a)
	empty()
	if cerr != nil {
		t.Error(cerr)
	}
	matches(t, err, unix.EMFILE)
	if p != nil || !strings.Contains(err.Error(), "RLIMIT_NOFILE") {
		t.Errorf("got %v and %v, want the limit in the text", p, err)
	}
}

func TestPeerAllocatesNothing(t *testing.T) {
	a, _ := pair(t, socketpair.Stream)
	n := testing.AllocsPerRun(100, func() {
		if _, err := credentials.Peer(a); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Peer and Exchange take what had a peer once for a connection, without asking. The kernel does not let it
// become a listener, not even with a name and after its peer has gone.
func TestAConnectionStaysOne(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			if a.RemoteAddr() == nil {
				t.Fatal("an end of a pair has no remote address")
			}
			if err := sysfd.Control(a, func(fd int) error {
				return unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(folder(t), "socket")})
			}); err != nil {
				t.Fatal(err)
			}
			listen := func() error { return sysfd.Control(a, func(fd int) error { return unix.Listen(fd, 1) }) }
			if err := listen(); err == nil {
				t.Error("a connection listens")
			}
			b.Close()
			if err := listen(); err == nil {
				t.Error("a connection whose peer has gone listens")
			}
		})
	}
}

// hidden is a syscall.Conn that is no *net.UnixConn.
type hidden struct{ *net.UnixConn }

func TestPeerOfAnyConn(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := pair(t, socketpair.Stream)
	got, err := credentials.Peer(hidden{a})
	if err != nil || got != credentials.Self() {
		t.Errorf("got %v, %v", got, err)
	}
	fd := -1
	_ = sysfd.Control(b, func(n int) (err error) {
		fd, err = sysfd.Dup(n)
		return err
	})
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	got, err = credentials.Peer(f)
	if err != nil || got != credentials.Self() {
		t.Errorf("got %v, %v", got, err)
	}
}

func BenchmarkPeer(b *testing.B) {
	conn, _ := pair(b, socketpair.Stream)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := credentials.Peer(conn); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPeerGroups(b *testing.B) {
	conn, _ := pair(b, socketpair.Stream)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := credentials.PeerGroups(conn); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPeerProcess(b *testing.B) {
	conn, _ := pair(b, socketpair.Stream)
	b.ReportAllocs()
	for b.Loop() {
		p, err := credentials.PeerProcess(conn)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
