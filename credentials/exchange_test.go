//go:build linux

package credentials_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// result is that of an Exchange in a goroutine.
type result struct {
	credentials.Sender
	err error
}

func exchange(ctx context.Context, c syscall.Conn) <-chan result {
	done := make(chan result, 1)
	go func() {
		s, err := credentials.Exchange(ctx, c)
		done <- result{s, err}
	}()
	return done
}

// senderIs looks at an Exchange's result and closes it.
func senderIs(t testing.TB, got result, want credentials.Cred) {
	t.Helper()
	if got.err != nil {
		t.Error(got.err)
		return
	}
	defer got.Close()
	if got.Cred != want {
		t.Errorf("the sender is %v, want %v", got.Cred, want)
	}
	if testutil.PassPIDFD.Probe() != nil {
		return
	}
	if got.Process == nil || got.Process.PID() != want.PID || got.Process.ID() != open(t, want.PID).ID() {
		t.Errorf("the process is %+v, want %d", got.Process, want.PID)
	}
}

// refused expects an Exchange to fail, and to give nothing.
func refused(t testing.TB, got result, want ...error) {
	t.Helper()
	matches(t, got.err, want...)
	if got.Cred != (credentials.Cred{}) || got.Process != nil {
		t.Errorf("with the error came %v", got.Sender)
		_ = got.Close()
	}
}

// self is how this process is stamped.
func self() credentials.Cred {
	return credentials.Cred{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

// Who is late, in a test with two ends.
var orders = []string{"both at once", "we late", "they late"}

func TestExchangeInOneProcess(t *testing.T) {
	for _, style := range styles {
		for _, order := range orders[:2] {
			t.Run(style.String()+" "+order, func(t *testing.T) {
				testutil.NoLeaks(t)
				a, b := pair(t, style)
				theirs := exchange(t.Context(), b)
				if order == "we late" {
					arrived(t, a)
				}
				senderIs(t, <-exchange(t.Context(), a), self())
				senderIs(t, <-theirs, self())
			})
		}
	}
}

// The other end is in a child that inherited it, where SO_PEERCRED names its parent for both.
func TestExchangeWithChild(t *testing.T) {
	for _, style := range styles {
		for _, user := range []string{"same user", "another user"} {
			for _, order := range orders {
				t.Run(style.String()+" "+user+" "+order, func(t *testing.T) {
					testutil.NoLeaks(t)
					if user == "another user" {
						testutil.NeedRoot(t)
					}
					cmd, want := as(t, user == "another user")
					child, conn := startWith(t, cmd, style)
					want.PID = child.pid()
					exchangeWith(t, child, conn, want, order)
				})
			}
		}
	}
}

func TestExchangeOverPath(t *testing.T) {
	for _, style := range []socketpair.Style{socketpair.Stream, socketpair.SeqPacket} {
		for _, order := range orders {
			t.Run(style.String()+" "+order, func(t *testing.T) {
				testutil.NoLeaks(t)
				cmd, want := as(t, os.Geteuid() == 0)
				child, conn := dialled(t, cmd, network[style])
				want.PID = child.pid()
				exchangeWith(t, child, conn, want, order)
			})
		}
	}
}

func exchangeWith(t *testing.T, child *process, conn *net.UnixConn, want credentials.Cred, order string) {
	t.Helper()
	var ours <-chan result
	switch order {
	case "both at once":
		child.tell("exchange")
		ours = exchange(t.Context(), conn)
	case "we late":
		child.tell("exchange")
		arrived(t, conn)
		ours = exchange(t.Context(), conn)
	case "they late":
		ours = exchange(t.Context(), conn)
		sent(t, conn)
		child.tell("exchange")
	}
	senderIs(t, <-ours, want)
	if got := child.answer(); got != self().String() {
		t.Errorf("the other end sees %s, want %v", got, self())
	}
	// The connection goes on as it was.
	child.do("write behind")
	readIs(t, conn, "behind")
	if _, err := conn.Write([]byte("back")); err != nil {
		t.Error(err)
	}
	if got := child.do("read"); got != "back" {
		t.Errorf("the other end reads %q", got)
	}
}

func readIs(t testing.TB, c *net.UnixConn, want string) {
	t.Helper()
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != want {
		t.Errorf("read %q, %v, want %q", buf[:n], err, want)
	}
}

// Datagram sockets with names that are connected to each other have no SO_PEERCRED at all.
func TestExchangeOfNamedDatagramSockets(t *testing.T) {
	testutil.NoLeaks(t)
	dir := folder(t)
	at := func(name string) *net.UnixAddr { return &net.UnixAddr{Net: "unixgram", Name: filepath.Join(dir, name)} }
	a, err := net.ListenUnixgram("unixgram", at("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := net.DialUnix("unixgram", at("b"), at("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	err = sysfd.Control(a, func(fd int) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: at("b").Name}) })
	if err != nil {
		t.Fatal(err)
	}
	theirs := exchange(t.Context(), b)
	senderIs(t, <-exchange(t.Context(), a), self())
	senderIs(t, <-theirs, self())
}

// The options are what they were, the socket did not bind itself to a name, there is no deadline,
// and nothing that the other end sent behind its message is lost, whether glued to it or not.
func TestExchangeLeavesTheSocketAsItWas(t *testing.T) {
	for _, style := range styles {
		for _, asked := range []int{0, 1} {
			t.Run(style.String(), func(t *testing.T) {
				testutil.NoLeaks(t)
				testutil.Need(t, testutil.PassPIDFD)
				a, b := pair(t, style)
				setOption(t, a, unix.SO_PASSCRED, asked)
				setOption(t, a, unix.SO_PASSPIDFD, asked)
				if style == socketpair.Stream {
					send(t, b, []byte(message+"glued"), stamp())
				} else {
					send(t, b, []byte(message), stamp())
					send(t, b, []byte("glued"), nil)
				}
				send(t, b, []byte(" behind"), nil)
				ctx, cancel := context.WithCancel(t.Context())
				senderIs(t, <-exchange(ctx, a), self())
				cancel()
				if cred, pidfd := option(t, a, unix.SO_PASSCRED), option(t, a, unix.SO_PASSPIDFD); cred != asked || pidfd != asked {
					t.Errorf("SO_PASSCRED is %d and SO_PASSPIDFD is %d, want %d", cred, pidfd, asked)
				}
				if name := boundName(t, a); asked == 0 && name != "@" {
					t.Errorf("the socket has got the name %q", name)
				}
				if asked == 1 {
					setOption(t, a, unix.SO_PASSPIDFD, 0) // Read would throw it away unclosed
				}
				if style == socketpair.Stream {
					readIs(t, a, "glued behind")
				} else {
					readIs(t, a, "glued")
					readIs(t, a, " behind")
				}
				readIs(t, b, message)
			})
		}
	}
}

// boundName is "@" for a socket without a name, by a weakness of x/sys.
func boundName(t testing.TB, c *net.UnixConn) string {
	t.Helper()
	addr, err := sysfd.Ask(c, unix.Getsockname)
	if err != nil {
		t.Fatal(err)
	}
	return addr.(*unix.SockaddrUnix).Name
}

func TestExchangeAndContext(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			ctx, cancel := context.WithCancel(t.Context())
			ours := exchange(ctx, a)
			sent(t, a)
			cancel()
			refused(t, <-ours, context.Canceled)
			if option(t, a, unix.SO_PASSCRED) != 0 {
				t.Error("SO_PASSCRED is on")
			}

			deadline, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			refused(t, <-exchange(deadline, a), context.DeadlineExceeded)

			for unread(t, a) { // a stream glues the two messages
				if _, err := b.Read(make([]byte, 64)); err != nil {
					t.Fatal(err)
				}
			}
			refused(t, <-exchange(ctx, a), context.Canceled)
			if unread(t, a) {
				t.Error("it has sent something for a context that was done before")
			}
			if _, err := b.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			readIs(t, a, "x") // no deadline is left
		})
	}
}

// A deadline from before is not the exchange's.
func TestExchangeForgetsOlderDeadline(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := pair(t, socketpair.Stream)
	if err := a.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	theirs := exchange(t.Context(), b)
	senderIs(t, <-exchange(t.Context(), a), self())
	senderIs(t, <-theirs, self())
}

func TestExchangeRefuses(t *testing.T) {
	stream, packets := []socketpair.Style{socketpair.Stream}, []socketpair.Style{socketpair.Datagram, socketpair.SeqPacket}
	connected := []socketpair.Style{socketpair.Stream, socketpair.SeqPacket}
	rights := func(t *testing.T) []byte {
		fd, err := unix.MemfdCreate("fdkit", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return cmsg.AppendRights(stamp(), []int{fd, fd, fd})
	}
	rows := []struct {
		name   string
		styles []socketpair.Style
		act    func(t *testing.T, b *net.UnixConn)
		want   error
	}{
		{"closed", styles, func(t *testing.T, b *net.UnixConn) { b.Close() }, credentials.ErrPeerGone},
		{"sent and closed", styles, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte(message), stamp())
			b.Close()
		}, credentials.ErrPeerGone},
		// The end of a stream is stamped {0, 0, 0}.
		{"half closed", connected, func(t *testing.T, b *net.UnixConn) { b.CloseWrite() }, credentials.ErrPeerGone},
		{"half a message and the end", stream, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte(message[:8]), stamp())
			b.CloseWrite()
		}, credentials.ErrPeerGone},

		{"something else", styles, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte("fdkit identity 2"), stamp())
		}, credentials.ErrProtocol},
		{"something short", styles, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte("hi"), stamp())
		}, credentials.ErrProtocol},
		{"something else, unstamped", styles, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte("GET / HTTP/1.1\r\n\r\n"), nil)
		}, credentials.ErrProtocol},
		{"too long", packets, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte(message+"."), stamp())
		}, credentials.ErrProtocol},
		{"in two packets", packets, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte(message[:8]), stamp())
			send(t, b, []byte(message[8:]), stamp())
		}, credentials.ErrProtocol},
		{"empty", packets, func(t *testing.T, b *net.UnixConn) {
			send(t, b, nil, nil)
			send(t, b, []byte(message), stamp())
		}, credentials.ErrProtocol},
		{"with descriptors", styles, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte(message), rights(t))
		}, credentials.ErrProtocol},
		// On SOCK_SEQPACKET x/sys adds a byte.
		{"empty with descriptors", packets, func(t *testing.T, b *net.UnixConn) {
			send(t, b, nil, rights(t))
		}, credentials.ErrProtocol},

		// Sent before anybody asked for stamps: {0, 65534, 65534}.
		{"unstamped", styles, func(t *testing.T, b *net.UnixConn) {
			send(t, b, []byte(message), nil)
		}, credentials.ErrNoIdentity},
	}
	for _, row := range rows {
		for _, style := range row.styles {
			t.Run(row.name+" "+style.String(), func(t *testing.T) {
				testutil.NoLeaks(t)
				a, b := pair(t, style)
				row.act(t, b)
				refused(t, <-exchange(t.Context(), a), row.want)
				if option(t, a, unix.SO_PASSCRED) != 0 {
					t.Error("SO_PASSCRED is on")
				}
			})
		}
	}
}

func TestExchangePeerGoesWhileWeWait(t *testing.T) {
	for _, style := range []socketpair.Style{socketpair.Stream, socketpair.SeqPacket} {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			child, conn := startWith(t, peer.Command(t), style)
			ours := exchange(t.Context(), conn)
			sent(t, conn)
			if err := child.end(); err != nil {
				t.Fatal(err)
			}
			refused(t, <-ours, credentials.ErrPeerGone)
		})
	}
}

// Nothing tells a datagram end that the other one is closed while it waits.
func TestExchangeOfDatagramsWaitsForContext(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := pair(t, socketpair.Datagram)
	ctx, cancel := context.WithCancel(t.Context())
	ours := exchange(ctx, a)
	sent(t, a)
	b.Close()
	cancel()
	refused(t, <-ours, context.Canceled)
}

// The other end answered and left, with our message unread: a reset, which SOCK_SEQPACKET reports
// before what is queued.
func TestExchangeWithWhoHasLeft(t *testing.T) {
	for _, style := range []socketpair.Style{socketpair.Stream, socketpair.SeqPacket} {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			answer := func() {
				send(t, b, []byte(message), stamp())
				b.Close()
			}
			senderIs(t, <-exchange(t.Context(), beforeRead{a, answer}), self())
		})
	}
}

// beforeRead is a connection that calls act before anybody waits to read it.
type beforeRead struct {
	*net.UnixConn
	act func()
}

func (c beforeRead) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.UnixConn.SyscallConn()
	return beforeRawRead{raw, c.act}, err
}

type beforeRawRead struct {
	syscall.RawConn
	act func()
}

func (r beforeRawRead) Read(f func(fd uintptr) bool) error {
	r.act()
	return r.RawConn.Read(f)
}

// Without a word about credentials the kernel stamps a message, once it was asked to.
func TestExchangeWithImplicitStamp(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			ours := exchange(t.Context(), a)
			testutil.Eventually(t, "stamps are asked for", func() bool { return option(t, a, unix.SO_PASSCRED) == 1 })
			if _, err := b.Write([]byte(message)); err != nil {
				t.Fatal(err)
			}
			senderIs(t, <-ours, self())
		})
	}
}

func TestExchangeInPieces(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := pair(t, socketpair.Stream)
	ours := exchange(t.Context(), a)
	for i := range message {
		send(t, b, []byte(message[i:i+1]), stamp())
	}
	senderIs(t, <-ours, self())
}

// Two processes hold the other end, and each writes a half.
func TestExchangeWithTwoWriters(t *testing.T) {
	testutil.NoLeaks(t)
	a, b := pair(t, socketpair.Stream)
	cmd := peer.Command(t)
	fd, err := sysfd.Ask(b, sysfd.Dup)
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	child := start(t, cmd)
	cmd.ExtraFiles[0].Close()
	child.do("inherit")

	send(t, b, []byte(message[:8]), stamp())
	child.do("send %s %d %d %d", "entity_1", child.pid(), os.Getuid(), os.Getgid())
	refused(t, <-exchange(t.Context(), a), credentials.ErrProtocol)
}

func TestExchangeOverWrongFiles(t *testing.T) {
	noPeers(t, func(t *testing.T, c syscall.Conn, want error) {
		switch t.Name() {
		case "TestExchangeOverWrongFiles/unconnected", "TestExchangeOverWrongFiles/unconnected_datagram":
			want = credentials.ErrPeerGone // ENOTCONN is also what a datagram end says whose peer is gone
		case "TestExchangeOverWrongFiles/datagram_connected_to_a_path":
			want = context.Canceled // nobody can answer
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ours := exchange(ctx, c)
		if want == context.Canceled {
			sent(t, c)
			cancel()
		}
		refused(t, <-ours, want)
	})
}

func TestExchangeOverBlockingFile(t *testing.T) {
	testutil.NoLeaks(t)
	conn, file, err := socketpair.ForChild(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer file.Close()
	_, err = credentials.Exchange(t.Context(), file)
	matches(t, err, os.ErrNoDeadline)
}

func TestExchangeOverFile(t *testing.T) {
	testutil.NoLeaks(t)
	a, b, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	send(t, b, []byte(message), stamp())
	s, err := credentials.Exchange(t.Context(), a)
	senderIs(t, result{s, err}, self())
}

// The identity comes, the pidfd has no room; descriptors that come along are lost, and that is told.
func TestExchangeAtDescriptorLimit(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			send(t, b, []byte(message), stamp())
			empty := testutil.FillTable(t, 0)
			s, err := credentials.Exchange(t.Context(), a)
			empty()
			defer s.Close()
			if err != nil || s.Cred != self() || s.Process != nil {
				t.Errorf("got %v, %v", s, err)
			}

			send(t, b, []byte(message), cmsg.AppendRights(stamp(), []int{0, 1, 2}))
			empty = testutil.FillTable(t, 0)
			got := <-exchange(t.Context(), a)
			empty()
			refused(t, got, credentials.ErrProtocol)
		})
	}
}

// Root may write any pid. It is found out as long as it does not lie about the ids as well.
func TestExchangeForged(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.Need(t, testutil.PIDFDInfo)
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			victim := start(t, peer.CommandAs(t, 4300, 4301, nil))
			forge := func(pid, uid, gid int) result {
				a, b := pair(t, style)
				err := sendAs(b, message, pid, uid, gid)
				if errors.Is(err, unix.EPERM) {
					t.Skipf("this root has no CAP_SYS_ADMIN: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				return <-exchange(t.Context(), a)
			}
			refused(t, forge(victim.pid(), 0, 0), credentials.ErrForged)
			refused(t, forge(victim.pid(), 4300, 0), credentials.ErrForged)
			refused(t, forge(victim.pid(), 0, 4301), credentials.ErrForged)
			refused(t, forge(os.Getpid(), 4300, 4301), credentials.ErrForged)

			// The limit that Exchange documents: the whole truth about somebody else, SCM_PIDFD included.
			senderIs(t, forge(victim.pid(), 4300, 4301), credentials.Cred{PID: victim.pid(), UID: 4300, GID: 4301})
			senderIs(t, forge(1, 0, 0), credentials.Cred{PID: 1})
		})
	}
}

// An ordinary user cannot even send it.
func TestExchangeCannotBeForgedByOthers(t *testing.T) {
	testutil.NoLeaks(t)
	cmd, own := as(t, os.Geteuid() == 0)
	child, conn := startWith(t, cmd, socketpair.SeqPacket)
	if own.UID == 0 {
		t.Fatal("the child is root")
	}
	name := "fdkit_identity_1"
	child.refuses(unix.EPERM, "send %s %d %d %d", name, os.Getpid(), own.UID, own.GID)
	child.refuses(unix.EPERM, "send %s %d %d %d", name, child.pid(), own.UID+1, own.GID)
	child.refuses(unix.EPERM, "send %s %d %d %d", name, child.pid(), own.UID, own.GID+1)
	child.refuses(unix.EPERM, "send %s 0 0 0", name)
	child.do("send %s %d %d %d", name, child.pid(), own.UID, own.GID)
	own.PID = child.pid()
	senderIs(t, <-exchange(t.Context(), conn), own)
}

// Who changes its real ids while the other end is still reading does not match its stamp any more.
func TestExchangeWithWhoChangesIds(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	testutil.Need(t, testutil.PIDFDInfo)
	child, conn := startWith(t, peer.Command(t), socketpair.SeqPacket)
	send(t, conn, []byte(message), stamp())
	child.do("exchange")
	child.do("ids 4231 4231 4231")
	refused(t, <-exchange(t.Context(), conn), credentials.ErrForged)
}

// From inside a pid namespace those outside have no pid; from outside those inside have one.
func TestExchangeAcrossPidNamespaces(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			needNamespaces(t)
			testutil.NoLeaks(t)
			child, conn := startWith(t, isolate(peer.Command(t), unix.CLONE_NEWPID), style)
			child.tell("exchange")
			senderIs(t, <-exchange(t.Context(), conn),
				credentials.Cred{PID: child.pid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
			if answer := child.answer(); !isError(answer, credentials.ErrNoIdentity) {
				t.Errorf("inside: %s, want no identity", answer)
			}
		})
	}
}

func isError(answer string, want error) bool {
	return strings.HasPrefix(answer, "error: ") && strings.Contains(answer, want.Error())
}

// In a user namespace that does not map them, both ends are 65534, like everybody else. Nobody is
// recognised by that.
func TestExchangeAcrossUserNamespaces(t *testing.T) {
	testutil.NeedRoot(t)
	for _, order := range orders[1:] {
		t.Run(order, func(t *testing.T) {
			needNamespaces(t)
			testutil.NoLeaks(t)
			cmd := isolate(peer.Command(t), unix.CLONE_NEWUSER)
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 4300, HostID: 4300, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
			child, conn := startWith(t, cmd, socketpair.SeqPacket)
			if got, want := child.do("self"), (credentials.Cred{PID: child.pid(), UID: 65534}).String(); got != want {
				t.Errorf("inside, the child is %s, want %s", got, want)
			}
			if got, want := child.do("peer"), (credentials.Cred{PID: os.Getpid(), UID: 65534}).String(); got != want {
				t.Errorf("inside, the peer is %s, want %s", got, want)
			}
			if answer := child.ask("samepeer"); !strings.Contains(answer, "not the same user") {
				t.Errorf("inside, SameUser says %q", answer)
			}

			// The child cannot write ids that have no number there, so it is stamped only if it was
			// asked for it in time.
			if order == "we late" {
				child.tell("exchange")
				arrived(t, conn)
				refused(t, <-exchange(t.Context(), conn), credentials.ErrNoIdentity)
			} else {
				ours := exchange(t.Context(), conn)
				testutil.Eventually(t, "stamps are asked for", func() bool { return option(t, conn, unix.SO_PASSCRED) == 1 })
				child.tell("exchange")
				senderIs(t, <-ours, credentials.Cred{PID: child.pid()})
			}
			if answer := child.answer(); !isError(answer, credentials.ErrNoIdentity) {
				t.Errorf("inside: %s, want no identity", answer)
			}
		})
	}
}

// Users that the namespace has numbers for are recognised in it.
func TestExchangeInUserNamespaceWithOwnNumber(t *testing.T) {
	needNamespaces(t)
	testutil.NoLeaks(t)
	cmd := isolate(peer.Command(t), unix.CLONE_NEWUSER)
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 77, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 78, HostID: os.Getgid(), Size: 1}}
	child, conn := startWith(t, cmd, socketpair.Stream)
	child.tell("exchange")
	want := self()
	want.PID = child.pid()
	senderIs(t, <-exchange(t.Context(), conn), want)
	if got, want := child.answer(), (credentials.Cred{PID: os.Getpid(), UID: 77, GID: 78}).String(); got != want {
		t.Errorf("inside, we are %s, want %s", got, want)
	}
}

func BenchmarkExchange(b *testing.B) {
	for _, style := range styles {
		b.Run(style.String(), func(b *testing.B) {
			x, y := pair(b, style)
			turn, done := make(chan struct{}), make(chan error)
			go func() {
				for range turn {
					s, err := credentials.Exchange(context.Background(), y)
					_ = s.Close()
					done <- err
				}
			}()
			defer close(turn)
			b.ReportAllocs()
			for b.Loop() {
				turn <- struct{}{}
				s, err := credentials.Exchange(context.Background(), x)
				if err := errors.Join(err, <-done, s.Close()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Who says who it is and ends has said it.
func TestExchangeBeforeEnd(t *testing.T) {
	testutil.NoLeaks(t)
	own := credentials.Cred{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	send := func(fd int) error { return unix.Sendmsg(fd, []byte(message), stamp(), nil, 0) }
	testutil.Ending(t, 2*time.Microsecond, send, func() (io.Closer, func()) {
		a, b, err := socketpair.New(socketpair.SeqPacket)
		if err != nil {
			t.Fatal(err)
		}
		return a, func() {
			s, err := credentials.Exchange(context.Background(), b)
			if err != nil || s.Cred != own {
				t.Errorf("the sender is %v, %v", s.Cred, err)
			}
			s.Close()
			b.Close()
		}
	})
}
