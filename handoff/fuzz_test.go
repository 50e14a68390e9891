//go:build linux

package handoff

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// FuzzFrames feeds a channel from a socket, and every payload to everything that parses one. input is
// written in pieces; each byte of cuts is the length of one and, in its two low bits, how many
// descriptors go with it.
func FuzzFrames(f *testing.F) {
	for _, log := range [][]logged{recordWhole(f, socketpair.SeqPacket), recordAbort(f, socketpair.SeqPacket)} {
		for _, from := range []byte("PS") {
			data, _ := conversation(log, from)
			f.Add(true, data, []byte{43 << 2 & 0xff, 3})
			f.Add(true, data, []byte{28, 0, 7, 3})
			for _, frame := range frames(data) {
				f.Add(false, frame, []byte{255})
			}
		}
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(null) })
	f.Fuzz(func(t *testing.T, stream bool, input, cuts []byte) {
		testutil.NoLeaks(t)
		style := socketpair.SeqPacket
		if stream {
			style = socketpair.Stream
		}
		from, to := pair(t, style)
		defer to.Close()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			defer from.Close()
			for len(input) > 0 {
				n, nfds := len(input), 0
				if len(cuts) > 0 {
					n, nfds = min(n, int(cuts[0]>>2)+1), int(cuts[0]&3)
					if cuts[0] == 255 {
						n = len(input)
					}
					cuts = cuts[1:]
				}
				fds := []int{null, null, null}[:nfds]
				if from.SendFDs(input[:n], fds) != nil {
					return
				}
				input = input[n:]
			}
		}()
		_ = to.SetReadDeadline(time.Now().Add(time.Minute))
		ch := newChannel(to)
		for {
			fr, err := ch.read()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the channel has no end")
			}
			if err != nil {
				break
			}
			if len(fr.payload) > maxPayload || fr.files.Len() > itemsPerFrame {
				t.Errorf("a frame of %d bytes and %d descriptors", len(fr.payload), fr.files.Len())
			}
			parseAll(t, fr.payload)
			_ = fr.files.Close()
		}
		ch.close()
		<-sent
	})
}

// parseAll: whatever a frame says it is, its payload may be anything.
func parseAll(t *testing.T, b []byte) {
	_, _ = parseHello(b, "web")
	if err := parseAbort(b); err != nil && len(err.Error()) > 100+10*maxReason {
		t.Errorf("a reason of %d bytes", len(err.Error()))
	}
	if n, err := countOf(b); err == nil && (n < 0 || n > maxItems) {
		t.Errorf("a count of %d", n)
	}
	total := 0
	_ = records(b, func(_ tag, v []byte) error {
		total += 6 + len(v)
		_, _ = parseItem(v)
		return nil
	})
	if total > len(b) {
		t.Errorf("records of %d bytes in %d", total, len(b))
	}
}

// What parseItem accepts means the same after it is written again.
func FuzzItem(f *testing.F) {
	for _, frame := range frames(first(conversation(recordWhole(f, socketpair.SeqPacket), 'P'))) {
		_ = records(frame[8:], func(_ tag, v []byte) error {
			f.Add(append([]byte(nil), v...))
			return nil
		})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := parseItem(b)
		if err != nil {
			return
		}
		var again Item
		err = records(it.append(nil), func(g tag, v []byte) (err error) {
			if g != tagItem {
				t.Errorf("record %d", g)
			}
			again, err = parseItem(v)
			return err
		})
		// An empty value and none are the same.
		if it.Meta = append([]byte(nil), it.Meta...); len(it.Meta) == 0 {
			it.Meta = nil
		}
		if len(it.Unread) == 0 {
			it.Unread = nil
		}
		if err != nil || !reflect.DeepEqual(it, again) {
			t.Errorf("%+v became %+v, %v", it, again, err)
		}
	})
}

func first[A, B any](a A, _ B) A { return a }

// conversation returns what one side sent, and for each frame how many the other side had sent
// before.
func conversation(log []logged, from byte) (data []byte, after []int) {
	theirs := 0
	for _, m := range log {
		switch {
		case string(m.data) == identityMessage:
		case m.from == from:
			data = append(data, m.data...)
			after = append(after, theirs)
		default:
			theirs++
		}
	}
	return data, after
}

// frames splits data; what is no frame is the last.
func frames(data []byte) (all [][]byte) {
	for len(data) > 0 {
		n := len(data)
		if n >= 8 {
			n = int(min(int64(n), 8+int64(binary.BigEndian.Uint32(data[4:]))))
		}
		all, data = append(all, data[:n]), data[n:]
	}
	return all
}

// A change is four bytes of a script: what, at which frame, and two numbers.
func change(all [][]byte, nfds []int, script []byte) ([][]byte, []int) {
	for ; len(script) >= 4 && len(all) > 0 && len(all) < 64; script = script[4:] {
		i, x, y := int(script[1])%len(all), int(script[2]), script[3]
		switch script[0] % 7 {
		case 0: // drop
			all, nfds = append(all[:i:i], all[i+1:]...), append(nfds[:i:i], nfds[i+1:]...)
		case 1: // say twice
			all, nfds = append(all, all[i]), append(nfds, nfds[i])
			copy(all[i+1:], all[i:])
			copy(nfds[i+1:], nfds[i:])
		case 2: // in another order
			j := x % len(all)
			all[i], all[j], nfds[i], nfds[j] = all[j], all[i], nfds[j], nfds[i]
		case 3: // flip bits
			b := bytes.Clone(all[i])
			b[x%len(b)] ^= y
			all[i] = b
		case 4: // cut off
			all[i] = all[i][:max(1, x%len(all[i]))]
		case 5: // other descriptors
			nfds[i] = x % 5
		case 6: // two in one
			if i+1 < len(all) {
				all[i] = append(bytes.Clone(all[i]), all[i+1]...)
				nfds[i] += nfds[i+1]
				all, nfds = append(all[:i+1:i+1], all[i+2:]...), append(nfds[:i+1:i+1], nfds[i+2:]...)
			}
		}
	}
	return all, nfds
}

// The other side of a fuzzed conversation is another process, because Offer kills one that hangs. It
// only says who it is; the test speaks for it.
var signerHelper = testutil.NewHelper("signer", func([]string) error {
	c, err := scm.Inherit(3)
	if err != nil {
		return err
	}
	for buf := make([]byte, 1); ; {
		m, err := c.Receive(buf, 1)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		own := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
		fd := m.Files.TakeFD(0)
		err = unix.Sendmsg(fd, []byte(identityMessage), own, nil, unix.MSG_NOSIGNAL)
		_ = unix.Close(fd)
		if err == nil {
			err = c.Send(buf)
		}
		if err != nil {
			return err
		}
	}
})

type signer struct {
	template *exec.Cmd
	cmd      *exec.Cmd
	conn     *scm.Conn
}

// ensure starts the process if there is none.
func (s *signer) ensure(t testing.TB) {
	if s.cmd != nil {
		if s.alive() {
			return
		}
		s.stop()
	}
	conn, end, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if s.conn, err = scm.NewConn(conn); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(s.template.Path, s.template.Args[1:]...)
	s.cmd.Env, s.cmd.Stderr, s.cmd.ExtraFiles = s.template.Env, os.Stderr, []*os.File{end}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (s *signer) stop() {
	if s.cmd != nil {
		_ = s.conn.Close()
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// alive reports whether the process lives; it is not reaped before stop.
func (s *signer) alive() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, s.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0
}

// puppet plays a side of a conversation that may be wrong in any way.
type puppet struct {
	fd    int
	heard atomic.Int32 // frames
	kinds [256]atomic.Bool
	said  [256]atomic.Bool

	// On a stream a changed length makes frames begin anywhere, so every byte may have been a type.
	stream bool
	news   chan struct{}

	anonymous bool // nobody says who he is first
}

func (p *puppet) listen(over <-chan struct{}) {
	var in []byte
	identity := !p.anonymous
	buf, oob := make([]byte, 1<<17), make([]byte, 2048)
	for {
		poll := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(poll, 5); n == 0 {
			select {
			case <-over:
				return
			default:
				continue
			}
		}
		n, oobn, _, _, err := unix.Recvmsg(p.fd, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err == unix.ECONNRESET || err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for i := range messages {
			fds, _ := unix.ParseUnixRights(&messages[i])
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
		in = append(in, buf[:n]...)
		for {
			size, _ := split(in, identity)
			if size == 0 || size > len(in) {
				break
			}
			if !identity {
				p.heard.Add(1)
				p.kinds[in[0]].Store(true)
			}
			identity, in = false, in[size:]
			select {
			case p.news <- struct{}{}:
			default:
			}
		}
	}
}

// speak sends each message when as many have been heard as in the recording, or after a moment.
func (p *puppet) speak(all [][]byte, nfds, after []int, props []int, over <-chan struct{}) {
	for i, b := range all {
		patience := time.After(4 * time.Millisecond)
	wait:
		for int(p.heard.Load()) < after[min(i, len(after)-1)] {
			select {
			case <-p.news:
			case <-patience:
				break wait
			case <-over:
				return
			}
		}
		var oob []byte
		if n := min(nfds[i], len(props)); n > 0 {
			oob = unix.UnixRights(props[:n]...)
		}
		p.said[b[0]].Store(true)
		for _, kind := range b {
			if p.stream {
				p.said[kind].Store(true)
			}
		}
		_ = unix.Sendmsg(p.fd, b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	}
}

var short = Deadlines{
	Hello: 200 * time.Millisecond, Offer: 20 * time.Millisecond, Rehearse: 20 * time.Millisecond, MaxPause: 20 * time.Millisecond,
	Commit: 20 * time.Millisecond, Probation: 5 * time.Millisecond, Answer: 20 * time.Millisecond,
}

// FuzzConversation plays a real conversation, changed, against a live Take (even) or Offer. Of how,
// bit 1 is the style, bit 2 closes the channel at the end, bit 3 kills at the end.
func FuzzConversation(f *testing.F) {
	signer := &signer{template: signerHelper.Command(f)}
	f.Cleanup(signer.stop)
	var after [2][]int
	for i, from := range []byte("PS") {
		var data []byte
		data, after[i] = conversation(recordWhole(f, socketpair.SeqPacket), from)
		aborted := first(conversation(recordAbort(f, socketpair.SeqPacket), from))
		f.Add(uint8(i), data, []byte{4, 1, 5, 0})
		for how := range uint8(8) {
			how = how<<1 | uint8(i)
			f.Add(how, data, []byte(nil))
			f.Add(how, aborted, []byte(nil))
			for j := range frames(data) {
				if how < 2 {
					f.Add(how, data, []byte{0, byte(j), 0, 0})
				}
			}
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ln.Close() })
	var props []int // what the items are: a listener, then files
	listener, err := ln.(*net.TCPListener).File()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { listener.Close() })
	client, server, err := socketpair.New(socketpair.Stream)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { client.Close(); server.Close() })
	conn, err := server.File()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	props = append(props, int(listener.Fd()), int(listener.Fd()), int(conn.Fd()))

	f.Fuzz(func(t *testing.T, how uint8, data, script []byte) {
		signer.ensure(t)
		testutil.NoLeaks(t)
		style := socketpair.SeqPacket
		if how&2 != 0 {
			style = socketpair.Stream
		}
		near, far, err := socketpair.ForChild(style)
		if err != nil {
			t.Fatal(err)
		}
		c, err := scm.NewConn(near)
		if err != nil {
			t.Fatal(err)
		}
		closeFar := sync.OnceFunc(func() { far.Close() })
		defer closeFar()
		if err := signer.conn.Send([]byte{0}, far); err != nil {
			t.Fatal(err)
		}
		if m, err := signer.conn.Receive(make([]byte, 1), 0); err != nil || m.Data == nil {
			t.Fatal(err)
		}
		all := frames(bytes.Clone(data))
		nfds := make([]int, len(all))
		for i, b := range all {
			if len(b) >= 8 && b[0] == 3 {
				nfds[i] = int(binary.BigEndian.Uint16(b[2:]))
			}
		}
		all, nfds = change(all, nfds, script)

		over, finished := make(chan struct{}), make(chan error, 1)
		p := &puppet{fd: int(far.Fd()), news: make(chan struct{}, 1), stream: how&2 != 0}
		var playing sync.WaitGroup
		playing.Go(func() { p.listen(over) })
		playing.Go(func() {
			p.speak(all, nfds, after[how&1], props, over)
			if how&8 != 0 {
				_ = signer.cmd.Process.Kill()
				for signer.alive() {
					time.Sleep(time.Millisecond)
				}
			}
			if how&4 != 0 {
				_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
			}
		})
		go func() {
			if how&1 == 0 {
				finished <- fuzzTake(c, signer, p)
			} else {
				finished <- fuzzOffer(c, ln.(*net.TCPListener), signer, p)
			}
		}()
		select {
		case err = <-finished:
		case <-time.After(time.Minute):
			t.Fatal("it did not end")
		}
		close(over)
		playing.Wait()
		if err != nil {
			t.Error(err)
		}
	})
}

// fuzzTake goes as far as it gets, and says what is wrong about that.
func fuzzTake(c *scm.Conn, signer *signer, p *puppet) error {
	ctx := context.Background()
	to, err := Take(ctx, c, Wish{Name: "web", Deadlines: short})
	if err != nil {
		if !errors.Is(err, ErrKept) && !errors.Is(err, ErrPredecessorHung) && !errors.Is(err, ErrPredecessorGone) {
			return fmt.Errorf("take: %w", err)
		}
		if errors.Is(err, ErrPredecessorGone) && signer.alive() {
			return fmt.Errorf("the predecessor lives: %w", err)
		}
		return nil
	}
	defer to.Close()
	if len(to.Items) != to.count {
		return fmt.Errorf("%d items of %d", len(to.Items), to.count)
	}
	err = to.Ready(ctx)
	switch {
	case err == nil:
		if signer.alive() && !p.said[9].Load() {
			return fmt.Errorf("owns without a commit: %w", err)
		}
	case errors.Is(err, ErrKept), errors.Is(err, ErrPredecessorHung):
		return nil
	default:
		return fmt.Errorf("ready: %w", err)
	}
	to.Serving()
	if err := to.Release(ctx); err != nil && !errors.Is(err, ErrPredecessorHung) {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// fuzzOffer is the same for Offer.
func fuzzOffer(c *scm.Conn, ln *net.TCPListener, signer *signer, p *puppet) error {
	var paused, pausing, resumed atomic.Int32
	err := Offer(context.Background(), c, Offering{
		Name: "web", Generation: 3,
		Items: []Item{{Name: "http", Kind: Listener, Conn: ln}, {Name: "null", Kind: Listener, Conn: ln}, {Name: "c", Kind: Listener, Conn: ln}},
		Pause: func(context.Context) (Final, error) {
			pausing.Add(1)
			paused.Add(1)
			return Final{State: []byte("17 visitors")}, nil
		},
		Resume:    func() { resumed.Add(1) },
		Deadlines: short,
	})
	switch {
	case err == nil && (paused.Load() != 1 || resumed.Load() != 0):
		return fmt.Errorf("done, but paused %d times, resumed %d", paused.Load(), resumed.Load())
	case err == nil, errors.Is(err, ErrKept) && resumed.Load() <= paused.Load():
		return nil
	case errors.Is(err, ErrTookBack) && resumed.Load() == 1:
		if signer.alive() && !p.said[13].Load() {
			return fmt.Errorf("took back from the living: %w", err)
		}
		return nil
	}
	return fmt.Errorf("paused %d times, resumed %d: %w", paused.Load(), resumed.Load(), err)
}
