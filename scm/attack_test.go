//go:build linux

package scm_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A peer that writes to the socket itself, what it likes.

// An attack is one or more messages, and what Receive, which asks for at most two descriptors in 100 bytes, makes
// of the first: an error, or none.
type attack struct {
	do      func(fd int)
	packets error // what Receive says on SOCK_SEQPACKET and SOCK_DGRAM,
	stream  error // and on SOCK_STREAM
}

func rights(fds ...int) []byte { return cmsg.AppendRights(nil, fds) }

func raw(fd int, p, control []byte) {
	buffers := [][]byte{p}
	if len(p) == 0 {
		buffers = [][]byte{} // SendmsgBuffers would add a byte otherwise
	}
	_, _ = unix.SendmsgBuffers(fd, buffers, control, nil, unix.MSG_NOSIGNAL)
}

func of(path string, flags int) int {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return fd
}

var attacks = map[string]attack{
	"many descriptors":          {func(fd int) { raw(fd, []byte("x"), rights(slices.Repeat([]int{2}, scm.MaxFDs)...)) }, scm.ErrTooManyFiles, scm.ErrTooManyFiles},
	"three descriptors":         {func(fd int) { raw(fd, []byte("x"), rights(2, 2, 2)) }, scm.ErrTooManyFiles, scm.ErrTooManyFiles},
	"in several headers":        {func(fd int) { raw(fd, []byte("x"), slices.Concat(rights(2), rights(2), rights(2))) }, scm.ErrTooManyFiles, scm.ErrTooManyFiles},
	"too long":                  {func(fd int) { raw(fd, make([]byte, 101), nil) }, scm.ErrTruncated, nil},
	"too long with descriptors": {func(fd int) { raw(fd, make([]byte, 101), rights(2, 2)) }, scm.ErrTruncated, nil},
	"nothing with descriptors":  {func(fd int) { raw(fd, nil, rights(2, 2)) }, nil, nil},
	"an O_PATH and a folder":    {func(fd int) { raw(fd, []byte("x"), rights(of("/", unix.O_PATH), of("/", unix.O_DIRECTORY))) }, nil, nil},
	"a terminal":                {func(fd int) { raw(fd, []byte("x"), rights(of("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY))) }, nil, nil},
	"the channel itself":        {func(fd int) { raw(fd, []byte("x"), rights(fd, fd)) }, nil, nil},
	"an empty header":           {func(fd int) { raw(fd, []byte("x"), rights()) }, nil, nil},
	"written in single bytes": {func(fd int) {
		for range 10 {
			raw(fd, []byte("x"), rights(2, 2))
		}
	}, nil, nil},
	"forged credentials": {func(fd int) {
		p := cmsg.AppendCredentials(nil, cmsg.Credentials{PID: 1, UID: 4200, GID: 4200})
		raw(fd, []byte("x"), slices.Concat(p, rights(2, 2, 2)))
		raw(fd, []byte("x"), rights(2, 2, 2)) // who may not forge has sent nothing yet
	}, scm.ErrTooManyFiles, scm.ErrTooManyFiles},
}

var attackerProcess = testutil.NewHelper("attacker", func(args []string) error {
	attacks[args[0]].do(3)
	raw(3, []byte("end"), nil)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
})

// Whatever comes, Receive says what it is, leaks nothing, and receives the next message.
func TestReceiveFromHostile(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(attacks)) {
		for _, style := range styles {
			t.Run(name+"/"+style.String(), func(t *testing.T) {
				testutil.NoLeaks(t)
				ours, theirs, err := socketpair.ForChild(style)
				if err != nil {
					t.Fatal(err)
				}
				c, err := scm.NewConn(ours)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := c.SetPassCred(true); err != nil {
					t.Fatal(err)
				}
				cmd := attackerProcess.Command(t, name)
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				cmd.ExtraFiles = []*os.File{theirs}
				err = cmd.Start()
				theirs.Close()
				if err != nil {
					t.Fatal(err)
				}
				defer end(t, cmd, in)

				want := attacks[name].packets
				if style == socketpair.Stream {
					want = attacks[name].stream
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Minute))
				var all []byte
				for first := true; ; first = false {
					m, err := c.Receive(make([]byte, 100), 2)
					if first && !errors.Is(err, want) || !first && err != nil && !errors.Is(err, scm.ErrTooManyFiles) {
						t.Errorf("received %v, want %v", err, want)
					}
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal("the next message does not come")
					}
					for i := range m.Files.Len() { // what came may be anything, and be taken for anything
						if _, err := scm.Inspect(m.Files.Lend(i)); err != nil {
							t.Errorf("inspect: %v", err)
						}
						if ln, err := m.Files.TakeListener(i); err == nil {
							ln.Close()
						}
						if conn, err := m.Files.TakePacketConn(i); err == nil {
							conn.Close()
						}
						if conn, err := m.Files.TakeConn(i); err == nil {
							conn.Close()
						}
						if _, err := scm.Inspect(m.Files.Lend(99)); !errors.Is(err, os.ErrInvalid) {
							t.Errorf("inspect nothing: %v", err)
						}
					}
					all = append(all, m.Data...)
					m.Close()
					if n := len(all); n >= 3 && string(all[n-3:]) == "end" {
						return
					}
				}
			})
		}
	}
}

func end(t *testing.T, cmd *exec.Cmd, in io.Closer) {
	t.Helper()
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Many goroutines do everything to one Conn at once, and then it is closed: all come back, with errors that say
// why.
func TestRace(t *testing.T) {
	allowed := []error{os.ErrDeadlineExceeded, net.ErrClosed, scm.ErrPeerGone, io.EOF, scm.ErrBroken, scm.ErrTooManyFiles}
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		f := files(t, 1)[0]
		number := numbers([]*os.File{f})
		ended := make(chan struct{})
		var working sync.WaitGroup
		var mu sync.Mutex
		done := map[string]int{}
		work := func(what string, f func() error) {
			working.Go(func() {
				for {
					select {
					case <-ended:
						return
					default:
					}
					err := f()
					if err == nil {
						mu.Lock()
						done[what]++
						mu.Unlock()
					} else if !slices.ContainsFunc(allowed, func(target error) bool { return errors.Is(err, target) }) {
						t.Errorf("%s: %v", what, err)
						return
					}
				}
			})
		}
		for _, c := range []*scm.Conn{a, b} {
			work("send", func() error { return c.Send([]byte("message"), f) })
			work("send numbers", func() error { return c.SendFDs([]byte("message"), number) })
			work("send a batch", func() error {
				_, err := c.SendBatch([]scm.Packet{{Data: []byte("message"), FDs: number}, {Data: []byte("message")}})
				return err
			})
			for range 2 {
				work("receive", func() error {
					m, err := c.Receive(make([]byte, 100), 2)
					return errors.Join(err, m.Close())
				})
			}
			work("receive a batch", func() error {
				packets := []scm.Packet{{Data: make([]byte, 100), FDs: make([]int, 2)}, {Data: make([]byte, 100), FDs: make([]int, 2)}}
				n, err := c.ReceiveBatch(packets)
				for _, p := range packets[:n] {
					for _, fd := range p.FDs[:p.NFDs] {
						_ = unix.Close(fd)
					}
				}
				return err
			})
			work("set deadlines", func() error {
				err := errors.Join(c.SetReadDeadline(time.Now().Add(time.Millisecond)), c.SetWriteDeadline(time.Now().Add(time.Millisecond)),
					c.SetDeadline(time.Unix(1, 0)), c.SetDeadline(time.Time{}))
				runtime.Gosched() // the others, who would otherwise get their turns when the time is over
				return err
			})
		}
		testutil.Eventually(t, "everything has worked once", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(done) == 6
		})
		var closing sync.WaitGroup
		for _, c := range []*scm.Conn{a, b, a, b} {
			closing.Go(func() { _ = c.Close() })
		}
		closing.Wait()
		close(ended)
		_ = within(t, "work on a closed Conn", func() error { working.Wait(); return nil })
	})
}

// The limit of descriptors may be lowered below what is open, and raised again, at any moment.
func TestLimitChanges(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		f := files(t, 1)[0]
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		set := func(n uint64) {
			t.Helper()
			limit := old
			limit.Cur = n
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
		}
		defer set(old.Cur)
		for range 3 {
			if err := a.Send([]byte("x"), f); err != nil {
				t.Fatal(err)
			}
			set(4)
			_, err := b.Receive(make([]byte, 10), 1)
			var full error
			testutil.Eventually(t, "no more than the limit are in flight", func() bool { // of this user, whose other tests send too
				full = a.Send([]byte("y"), f) // takes no number
				return !errors.Is(full, scm.ErrInFlight)
			})
			set(old.Cur)
			if !errors.Is(err, scm.ErrFilesLost) || !errors.Is(err, syscall.EMFILE) {
				t.Errorf("below what is open: %v", err)
			}
			if full != nil {
				t.Errorf("send: %v", full)
			}
			m, err := b.Receive(make([]byte, 10), 1)
			if err != nil || m.Files.Len() != 1 {
				t.Errorf("raised again: %v", err)
			}
			m.Close()
		}
	})
}

// A socket stays in its network namespace: one of another is a listener like any, and serves there.
func TestListenerOfAnotherNamespace(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.NoLeaks(t)
	a, theirs, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	c, err := scm.NewConn(a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cmd := elsewhere.Command(t, testutil.FreeAddress(t)) // where nobody listens here
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if errors.Is(err, unix.EPERM) {
		t.Skip("this root has no CAP_SYS_ADMIN")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, cmd, in)
	m, err := c.Receive(make([]byte, 100), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ln, err := m.Files.TakeListener(0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if conn, err := net.Dial("tcp", string(m.Data)); err == nil {
		conn.Close()
		t.Error("it is here")
	}
	fmt.Fprintln(in, "dial")
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

var elsewhere = testutil.NewHelper("elsewhere", func(args []string) error {
	c, err := scm.Inherit(3)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := loopbackUp(); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer ln.Close()
	if err := c.Send([]byte(ln.Addr().String()), ln.(*net.TCPListener)); err != nil {
		return err
	}
	if _, err := fmt.Scanln(new(string)); err != nil {
		return err
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
})

// loopbackUp switches lo on, which is down in a new namespace: netdevice(7).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// Root may write in anybody's name. A receiver that must not be fooled by root asks for more than the stamp.
func TestForgedSender(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.NoLeaks(t)
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, a, b)
	if err := b.SetPassCred(true); err != nil {
		t.Fatal(err)
	}
	forged := credentials.Cred{PID: 1, UID: 4200, GID: 4201}
	err = sysfd.Control(a, func(fd int) error {
		return unix.Sendmsg(fd, []byte("x"), cmsg.AppendCredentials(nil, cmsg.Credentials{PID: 1, UID: 4200, GID: 4201}), nil, 0)
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip("this root has no CAP_SYS_ADMIN")
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 10), 0)
	if err != nil || m.Sender == nil || m.Sender.Cred != forged {
		t.Fatalf("%v, %v", m.Sender, err)
	}
	m.Close()
}
