//go:build linux

package handoff

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A real Offer and a real Take speak through a relay that writes down what passes. It knows the
// protocol only from docs/protocol.md: nothing of wire.go is used here.

const identityMessage = "fdkit identity 1"

// logged is one message that passed.
type logged struct {
	from byte // 'P' or 'S'
	data []byte
	fds  []string // what the descriptors are
	cred bool     // it had its writer's credentials
}

// relay stands between two sockets, of which it has the far ends.
type relay struct {
	log     []logged
	packets bool
	fds     [2]int // of P's and of S's connection
	in      [2][]byte
	rights  [2][]int
	count   [2]int
	ended   [2]bool
}

func (r *relay) run() error {
	// Both may speak first: the order of the identities and the hellos is the listing's. What follows
	// has only one order.
	for _, from := range []int{0, 1, 0, 1} {
		for n := r.count[from]; r.count[from] == n && !r.ended[from]; {
			if err := r.pass(from); err != nil {
				return err
			}
		}
	}
	return r.rest()
}

// rest passes on in the order in which it comes, until both have ended.
func (r *relay) rest() error {
	for !r.ended[0] || !r.ended[1] {
		poll := []unix.PollFd{{Fd: int32(r.fds[0]), Events: unix.POLLIN}, {Fd: int32(r.fds[1]), Events: unix.POLLIN}}
		for i := range poll {
			if r.ended[i] {
				poll[i].Fd = -1
			}
		}
		if _, err := unix.Poll(poll, 10_000); err != nil && err != unix.EINTR {
			return err
		}
		for i := range poll {
			if poll[i].Revents != 0 {
				if err := r.pass(i); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pass passes on what one side has sent: of the first two messages one, later what is there.
func (r *relay) pass(from int) error {
	if r.count[from] == 1 && len(r.in[from]) > 0 {
		if err := r.forward(from, false); err != nil || r.count[from] > 1 {
			return err
		}
	}
	poll := []unix.PollFd{{Fd: int32(r.fds[from]), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, 10_000); err != unix.EINTR {
			break
		}
	}
	// Asked for only now: credentials that come with what was sent before were sent explicitly.
	passCred := 0
	if r.count[from] == 0 {
		passCred = 1
	}
	if err := unix.SetsockoptInt(r.fds[from], unix.SOL_SOCKET, unix.SO_PASSCRED, passCred); err != nil {
		return err
	}
	buf, oob := make([]byte, 1<<17), make([]byte, 2048)
	n, oobn, flags, _, err := unix.Recvmsg(r.fds[from], buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err == unix.ECONNRESET || err == nil && n == 0 {
		r.ended[from] = true
		_ = unix.Shutdown(r.fds[1-from], unix.SHUT_WR)
		return nil
	}
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return fmt.Errorf("relay: %w, flags %#x", err, flags)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	cred := false
	for i := range messages {
		if c, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			cred = int(c.Pid) == os.Getpid()
		} else if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			r.rights[from] = append(r.rights[from], fds...)
		}
	}
	r.in[from] = append(r.in[from], buf[:n]...)
	return r.forward(from, cred)
}

// forward sends on the whole messages that were read.
func (r *relay) forward(from int, cred bool) error {
	for {
		size, nfds := split(r.in[from], r.count[from] == 0)
		if size == 0 || size > len(r.in[from]) {
			if r.packets && len(r.in[from]) > 0 {
				return fmt.Errorf("a packet that is no message: %x", r.in[from])
			}
			return nil
		}
		m := logged{from: "PS"[from], data: append([]byte(nil), r.in[from][:size]...), cred: cred}
		r.in[from] = r.in[from][size:]
		if nfds > len(r.rights[from]) || r.packets && nfds != len(r.rights[from]) {
			return fmt.Errorf("%d descriptors in a frame that says %d", len(r.rights[from]), nfds)
		}
		fds := r.rights[from][:nfds]
		r.rights[from] = r.rights[from][nfds:]
		for _, fd := range fds {
			m.fds = append(m.fds, descriptor(fd))
		}
		var control []byte
		switch {
		case r.count[from] == 0:
			control = unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
		case nfds > 0:
			control = unix.UnixRights(fds...)
		}
		err := unix.Sendmsg(r.fds[1-from], m.data, control, nil, unix.MSG_NOSIGNAL)
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		if err != nil && err != unix.EPIPE {
			return err
		}
		r.log = append(r.log, m)
		if r.count[from]++; r.count[from] <= 2 {
			return nil
		}
	}
}

// split says how long the first message in b is, and how many descriptors it has; 0 if that is not
// known yet.
func split(b []byte, identity bool) (size, nfds int) {
	switch {
	case identity:
		return len(identityMessage), 0
	case len(b) < 8:
		return 0, 0
	}
	return 8 + int(binary.BigEndian.Uint32(b[4:])), int(binary.BigEndian.Uint16(b[2:]))
}

func descriptor(fd int) string {
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil {
		return "file"
	} else if on == 1 {
		return "listening socket"
	}
	return "connected socket"
}

// record runs offer and take with a relay in between and returns what passed.
func record(t testing.TB, style socketpair.Style, offer func(*scm.Conn), take func(*scm.Conn)) []logged {
	t.Helper()
	r := &relay{packets: style != socketpair.Stream}
	var conns [2]*scm.Conn
	for i := range conns {
		near, far, err := socketpair.ForChild(style)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		r.fds[i] = int(far.Fd())
		if conns[i], err = scm.NewConn(near); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{}, 2)
	go func() { defer func() { done <- struct{}{} }(); offer(conns[0]) }()
	go func() { defer func() { done <- struct{}{} }(); take(conns[1]) }()
	if err := r.run(); err != nil {
		t.Error(err)
		_ = unix.Shutdown(r.fds[0], unix.SHUT_RDWR)
		_ = unix.Shutdown(r.fds[1], unix.SHUT_RDWR)
	}
	<-done
	<-done
	return r.log
}

// recordWhole records a handoff that succeeds: three items, a state, and a release.
func recordWhole(t testing.TB, style socketpair.Style) []logged {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	return record(t, style, func(c *scm.Conn) {
		err := Offer(context.Background(), c, Offering{
			Name: "web", Generation: 3,
			Items: []Item{
				{Name: "http", Kind: Listener, Conn: ln.(*net.TCPListener), Backlog: 128, Meta: []byte("v1")},
				{Name: "null", Kind: File, Conn: null},
				{Name: "c", Kind: Connection, Conn: conn.(*net.TCPConn), Unread: []byte("GET /")},
			},
			Pause:     func(context.Context) (Final, error) { return Final{State: []byte("17 visitors")}, nil },
			Deadlines: Deadlines{Probation: time.Hour, MaxPause: patient},
		})
		if err != nil {
			t.Error(err)
		}
	}, func(c *scm.Conn) {
		to, err := Take(context.Background(), c, Wish{Name: "web"})
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		if err := to.Ready(context.Background()); err != nil {
			t.Error(err)
		}
		if final, err := to.Final(); err != nil || string(final.State) != "17 visitors" {
			t.Errorf("%v, %q", err, final.State)
		}
		to.Serving()
		if err := to.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// recordAbort records a handoff that the successor gives up.
func recordAbort(t testing.TB, style socketpair.Style) []logged {
	t.Helper()
	return record(t, style, func(c *scm.Conn) {
		if err := Offer(context.Background(), c, Offering{Name: "web", Generation: 3}); !errors.Is(err, ErrKept) {
			t.Error(err)
		}
	}, func(c *scm.Conn) {
		to, err := Take(context.Background(), c, Wish{Name: "web"})
		if err != nil {
			t.Error(err)
			return
		}
		to.Abort(errors.New("the configuration is bad"))
	})
}

// The names of docs/protocol.md.
var (
	frameNames = []string{"?", "hello", "manifest", "items", "ack", "offered", "adopted", "state", "ready",
		"commit", "serving", "released", "done", "abort", "aborted"}
	recordNames = []string{"?", "versions", "name", "generation", "count", "item", "kind", "backlog", "meta",
		"unread", "data", "reason"}
)

// list is the listing of a conversation.
func list(log []logged) string {
	var s strings.Builder
	for _, m := range log {
		if string(m.data) == identityMessage {
			fmt.Fprintf(&s, "%c  %x", m.from, m.data)
			if m.cred {
				fmt.Fprintf(&s, "  %q, with SCM_CREDENTIALS", m.data)
			}
			s.WriteByte('\n')
			continue
		}
		fmt.Fprintf(&s, "%c  %02x %02x %x %x  %s", m.from, m.data[0], m.data[1], m.data[2:4], m.data[4:8], frameNames[m.data[0]])
		if len(m.fds) > 0 {
			fmt.Fprintf(&s, ", with SCM_RIGHTS: %s", strings.Join(m.fds, ", "))
		}
		s.WriteByte('\n')
		listRecords(&s, "     ", m.data[8:])
	}
	return s.String()
}

func listRecords(s *strings.Builder, indent string, b []byte) {
	for len(b) > 0 {
		tag, size := binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])
		value := b[6 : 6+size]
		name := recordNames[tag]
		fmt.Fprintf(s, "%s%04x %08x", indent, tag, size)
		switch name {
		case "item":
			fmt.Fprintf(s, "  %s\n", name)
			listRecords(s, indent+"  ", value)
		case "name", "meta", "unread", "data", "reason":
			fmt.Fprintf(s, " %x  %s %q\n", value, name, value)
		default:
			fmt.Fprintf(s, " %x  %s\n", value, name)
		}
		b = b[6+size:]
	}
}

// The document shows the listing, the listing is what was recorded, over either style.
func TestWireLog(t *testing.T) {
	const golden = "testdata/conversation.txt"
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		got := list(recordWhole(t, style)) + "\n" + list(recordAbort(t, style))
		want, err := os.ReadFile(golden)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs from what was recorded:\n%s", golden, got)
		}
		for _, name := range frameNames[1:] {
			if !strings.Contains(got, "  "+name) {
				t.Errorf("the conversation has no %s", name)
			}
		}
	})
	listing, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "```\n"+string(listing)+"```\n") {
		t.Errorf("docs/protocol.md does not show %s", golden)
	}
}
