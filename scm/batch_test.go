//go:build linux

package scm_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func packets(n, size, fds int) []scm.Packet {
	p := make([]scm.Packet, n)
	for i := range p {
		p[i] = scm.Packet{Data: make([]byte, size), FDs: make([]int, fds)}
	}
	return p
}

func TestBatch(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		const count = 40 // more than one system call takes
		sent := make([]scm.Packet, count)
		for i := range sent {
			sent[i] = scm.Packet{Data: fmt.Appendf(nil, "message %02d", i), FDs: numbers(files(t, i%4+1))}
		}
		if n, err := a.SendBatch(sent); n != count || err != nil {
			t.Fatalf("%d sent, %v", n, err)
		}
		got := packets(count, 20, 4)
		calls := 0
		for i := 0; i < count; calls++ {
			n, err := b.ReceiveBatch(got[i:])
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range got[i : i+n] {
				if p.Err != nil || string(p.Data[:p.N]) != string(sent[i].Data) || p.NFDs != len(sent[i].FDs) {
					t.Fatalf("message %d: %q with %d, %v", i, p.Data[:p.N], p.NFDs, p.Err)
				}
				for j, fd := range p.FDs[:p.NFDs] {
					if !testutil.SameFile(t, fd, sent[i].FDs[j]) {
						t.Errorf("message %d, descriptor %d is another file", i, j)
					}
				}
				sysfd.CloseAll(p.FDs[:p.NFDs])
				i++
			}
		}
		if calls > count/8 {
			t.Errorf("%d calls for %d messages", calls, count)
		}
	})
}

// One bad message says nothing about the others, in either direction.
func TestBatchWithBadMessage(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		f := numbers(files(t, 3))
		sent := []scm.Packet{{Data: []byte("one"), FDs: f[:1]}, {Data: []byte("two"), FDs: []int{f[0], -1}}, {Data: []byte("six"), FDs: f[:1]}}
		n, err := a.SendBatch(sent)
		if n != 1 || !errors.Is(err, scm.ErrNotSendable) {
			t.Errorf("%d sent, %v", n, err)
		}
		n, err = a.SendBatch([]scm.Packet{{Data: []byte("two"), FDs: f[:3]}, {Data: []byte("six"), FDs: f[:1]}, {Data: []byte("x"), FDs: make([]int, 254)}})
		if n != 2 || !errors.Is(err, scm.ErrTooManyFiles) {
			t.Errorf("%d sent, %v", n, err)
		}
		got := packets(5, 10, 2)
		n, err = b.ReceiveBatch(got)
		if n != 3 || err != nil {
			t.Fatalf("%d received, %v", n, err)
		}
		if got[0].Err != nil || got[2].Err != nil || !errors.Is(got[1].Err, scm.ErrTooManyFiles) || got[1].NFDs != 0 {
			t.Errorf("%v, %v, %v", got[0].Err, got[1].Err, got[2].Err)
		}
		unix.Close(got[0].FDs[0])
		unix.Close(got[2].FDs[0])
	})
}

func TestBatchAtEnd(t *testing.T) {
	eachConnOf(t, []socketpair.Style{socketpair.Stream, socketpair.SeqPacket}, func(t *testing.T, a, b *scm.Conn) {
		if err := b.Send([]byte("never read")); err != nil {
			t.Fatal(err)
		}
		f := numbers(files(t, 1))
		if n, err := a.SendBatch([]scm.Packet{{Data: []byte("x"), FDs: f}, {Data: []byte("x"), FDs: f}}); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		a.Close()
		got := packets(5, 10, 2)
		n, err := b.ReceiveBatch(got)
		if n != 2 || err != nil {
			t.Fatalf("what was queued: %d, %v", n, err)
		}
		for _, p := range got[:n] {
			sysfd.CloseAll(p.FDs[:p.NFDs])
		}
		if n, err := b.ReceiveBatch(got); n != 0 || !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("the reset: %d, %v", n, err)
		}
		if n, err := b.ReceiveBatch(got); n != 0 || err != io.EOF {
			t.Errorf("the end: %d, %v", n, err)
		}
		if n, err := b.ReceiveBatch(nil); n != 0 || err != nil {
			t.Errorf("an empty batch: %d, %v", n, err)
		}
	})
}

// A batch larger than the socket has room for waits and goes on.
func TestBatchWaits(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		const count = 1000
		f := numbers(files(t, 1))
		sent := make([]scm.Packet, count)
		for i := range sent {
			sent[i] = scm.Packet{Data: []byte("x"), FDs: f}
		}
		done := make(chan error, 1)
		go func() {
			n, err := a.SendBatch(sent)
			if err == nil && n != count {
				err = fmt.Errorf("%d sent", n)
			}
			done <- err
		}()
		got := packets(16, 1, 1)
		for i := 0; i < count; {
			n, err := b.ReceiveBatch(got)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range got[:n] {
				if p.Err != nil || p.NFDs != 1 {
					t.Fatal(p.NFDs, p.Err)
				}
				unix.Close(p.FDs[0])
			}
			i += n
		}
		if err := wait(t, "send", done); err != nil {
			t.Error(err)
		}
	})
}

// recvmmsg(2) has emptied the queue when an empty packet in it is looked at. What lies behind it must not
// be taken for the end: its descriptors would leak.
func TestBatchBehindEmptyPacket(t *testing.T) {
	eachConnOf(t, []socketpair.Style{socketpair.SeqPacket}, func(t *testing.T, a, b *scm.Conn) {
		f := numbers(files(t, 2))
		empty := func() {
			if err := sysfd.Control(a, func(fd int) error { return unix.Sendmsg(fd, nil, nil, nil, 0) }); err != nil {
				t.Fatal(err)
			}
		}
		empty() // which could be the end that firstEnd is about
		empty()
		for range 3 {
			if err := a.SendFDs([]byte("x"), f); err != nil {
				t.Fatal(err)
			}
			empty()
		}
		a.Close()
		got := packets(16, 10, 2)
		n, err := b.ReceiveBatch(got)
		if n != 6 || err != nil {
			t.Fatalf("%d messages, %v", n, err)
		}
		for i, p := range got[:n] {
			if want := i % 2; p.N != want || p.NFDs != 2*want || p.Err != nil {
				t.Errorf("message %d: %d bytes, %d descriptors, %v", i, p.N, p.NFDs, p.Err)
			}
			sysfd.CloseAll(p.FDs[:p.NFDs])
		}
		if n, err := b.ReceiveBatch(got); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
	})
}

// The end that the kernel tells too early is no message of a batch either.
func TestBatchBeforeEnd(t *testing.T) {
	got := packets(4, 10, 1)
	beforeEnd(t, func(c *scm.Conn) (size int, err error) {
		n, err := c.ReceiveBatch(got)
		for _, p := range got[:n] {
			size += p.N
			sysfd.CloseAll(p.FDs[:p.NFDs])
		}
		if n > 1 || n == 1 && got[0].NFDs != 1 {
			t.Errorf("%d messages, %d descriptors", n, got[0].NFDs)
		}
		return size, err
	})
}

// Closing what one message brought makes room, but not for what the next one has lost already.
func TestBatchWithFullTable(t *testing.T) {
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		f := numbers(files(t, 3))
		for range 3 {
			if err := a.SendFDs([]byte("x"), f); err != nil {
				t.Fatal(err)
			}
		}
		got := packets(3, 10, 3)
		release := testutil.FillTable(t, 1)
		n, err := b.ReceiveBatch(got)
		release()
		if n != 3 || err != nil {
			t.Fatalf("%d messages, %v", n, err)
		}
		for i, p := range got {
			if !errors.Is(p.Err, scm.ErrFilesLost) || !errors.Is(p.Err, unix.EMFILE) {
				t.Errorf("message %d: %v", i, p.Err)
			}
		}
	})
}
