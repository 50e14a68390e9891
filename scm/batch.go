//go:build unix

package scm

import (
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/socketpair"
)

// A Packet is one message of a batch, in the raw tier.
type Packet struct {
	Data []byte // to send, or to be filled
	FDs  []int  // to send (borrowed), or to be filled (given)

	// Set by ReceiveBatch: how much of Data and FDs was filled, and the error of this message, as
	// Receive would return it. With an error no descriptor is open.
	N, NFDs int
	Err     error
}

// SendBatch sends packets as SendFDs sends one, several in each sendmmsg(2), and returns how many
// were sent. If that is not all, err is the reason for the next one. It gains for few descriptors
// in a message; more in a message gains more. It allocates its buffers at the first call and
// nothing after that.
func (c *Conn) SendBatch(packets []Packet) (sent int, err error) {
	tx := c.sender()
	defer c.sending.Unlock()
	if tx.broken != nil {
		return 0, tx.broken
	}
	if tx.batch == nil {
		tx.batch = new(batch)
	}
	for sent < len(packets) {
		n, err := c.sendSome(packets[sent:])
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// sendSome sends as many packets as one system call takes.
func (c *Conn) sendSome(packets []Packet) (int, error) {
	tx := c.tx
	count := 0
	for ; count < min(len(packets), maxBatch); count++ {
		p := &packets[count]
		if err := c.checkSend(p.Data, len(p.FDs)); err != nil {
			if count == 0 {
				return 0, err
			}
			break // those before it first
		}
		tx.batch.set(count, p.Data, len(cmsg.AppendRights(tx.batch.rights(count), p.FDs)))
	}
	tx.packets = packets[:count]
	err := c.write(tx)
	tx.packets = nil
	tx.batch.clear(count)
	if err != nil {
		return 0, err
	}
	if tx.errno != 0 {
		return 0, c.sendError(tx.errno, len(packets[0].Data), packets[0].FDs)
	}
	sent := tx.n
	// A stream may take a part of the last one; the rest must follow before anything else.
	if last := packets[sent-1].Data; c.style == socketpair.Stream {
		if n, _, _ := tx.batch.result(sent - 1); n < len(last) {
			if err := c.transmit(last, n, nil); err != nil {
				return sent - 1, err
			}
		}
	}
	return sent, nil
}

// ReceiveBatch fills packets as ReceiveFDs fills one, with what is queued, in one recvmmsg(2), and
// returns how many came. It waits for the first only. What is wrong with one message is in its Err
// and says nothing about the others; err is for the connection, as from Receive: io.EOF at its end,
// with n = 0. It allocates its buffers at the first call and nothing after that.
func (c *Conn) ReceiveBatch(packets []Packet) (n int, err error) {
	rx := c.receiver()
	defer c.receiving.Unlock()
	if rx.batch == nil {
		rx.batch = new(batch)
	}
	count := min(len(packets), maxBatch)
	if count == 0 {
		return 0, nil
	}
	for i := range count {
		if len(packets[i].Data) == 0 && c.style == socketpair.Stream {
			return 0, &opError{op: "receive", kind: ErrTruncated, detail: fmt.Sprintf("the buffer of packet %d is empty", i), cause: os.ErrInvalid}
		}
		rx.batch.set(i, packets[i].Data, cmsg.BufferSize)
	}
	rx.count = count
	err = c.read(rx)
	rx.count = 0
	rx.batch.clear(count)
	if err = c.received(err); err != nil {
		return 0, err
	}
	last := rx.lastFull()
	for i := range rx.n {
		if i == rx.none {
			continue
		}
		if n != i { // the buffers of those behind it
			packets[n], packets[i] = packets[i], packets[n]
		}
		p := &packets[n]
		size, ncontrol, flags := rx.batch.result(i)
		var got cmsg.Received
		p.N, got, p.Err = c.judge(size, len(p.Data), rx.batch.control[i][:ncontrol], flags, p.FDs[:0:len(p.FDs)], len(p.FDs), i > last)
		p.NFDs = len(got.FDs)
		if p.Err == nil && got.PIDFD >= 0 {
			_ = unix.Close(got.PIDFD)
		}
		if p.Err == io.EOF { // nothing comes behind it but the same again
			p.Err = nil
			if n > 0 {
				return n, nil // the next call says so
			}
			return 0, c.endError()
		}
		n++
	}
	return n, nil
}

// attemptBatch is one sendmmsg(2); false means wait and call again.
func (tx *sender) attemptBatch(fd uintptr) bool {
	self := func(p Packet) bool { return slices.Contains(p.FDs, int(fd)) }
	count := slices.IndexFunc(tx.packets, self)
	if count < 0 {
		count = len(tx.packets)
	}
	if count == 0 {
		tx.self, tx.errno = slices.Index(tx.packets[0].FDs, int(fd)), errSelf
		return true
	}
	tx.n, tx.errno = tx.batch.send(int(fd), count)
	return tx.errno != unix.EAGAIN
}

// attemptBatch is one recvmmsg(2); false means wait and call again.
func (rx *receiver) attemptBatch(fd uintptr) bool {
	for again := true; again; {
		rx.n, rx.errno = rx.batch.receive(int(fd), rx.count, rx.style)
		rx.noteNone(int(fd))
		again = rx.style != socketpair.Datagram && rx.resetFirst() || rx.none == 0 && rx.n == 1
		if again {
			rx.batch.again()
		}
	}
	rx.full = ""
	for i := range rx.n {
		_, _, flags := rx.batch.result(i)
		if flags&unix.MSG_CTRUNC != 0 {
			rx.noteFull(int(fd))
		}
	}
	return rx.errno != unix.EAGAIN || rx.lost.Load()
}

// noteNone finds the message that is none, see firstEnd. What recvmmsg(2) returns behind it was queued.
func (rx *receiver) noteNone(fd int) {
	rx.none = -1
	if rx.style != socketpair.SeqPacket {
		return
	}
	for i := range rx.n {
		if n, ncontrol, _ := rx.batch.result(i); rx.nothing(n, ncontrol) {
			if rx.firstEnd(fd) {
				rx.none = i
			}
			return
		}
	}
}

// lastFull returns the last message that has something in it. recvmmsg(2) goes on at the end of a
// connection and returns it again and again, but nothing comes behind it: an empty message before
// this one is a message.
func (rx *receiver) lastFull() int {
	for i := rx.n - 1; i >= 0; i-- {
		n, ncontrol, _ := rx.batch.result(i)
		if n > 0 || ncontrol > 0 && rx.style != socketpair.Stream { // the end of a stream may be stamped
			return i
		}
	}
	return -1
}
