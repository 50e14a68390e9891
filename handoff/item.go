package handoff

import (
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// A Kind says what an item is and what its receiver checks.
type Kind uint8

// The kinds of items.
const (
	Listener   Kind = 1 + iota // a listening socket
	PacketConn                 // a datagram socket; it has one reader at any time
	Connection                 // an established connection
	File                       // anything else that is open
	kinds
)

func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return "unknown kind"
	}
	return [...]string{"listener", "packet conn", "connection", "file"}[k-1]
}

// An Item is one open file that moves to the successor. Its name is its identity: two sockets may
// have one address, and port 0 is none. A handoff moves up to 65536 of them, with up to 256 MiB of
// metadata and unread bytes altogether.
type Item struct {
	Name string // up to 255 bytes, unique but for connections
	Kind Kind

	// Conn is the open file of an item that is offered. It is borrowed until Offer returns.
	Conn syscall.Conn

	Backlog int    // of a Unix listener, for the listen(2) of its new owner; 0 is the system's limit
	Meta    []byte // what the program wants to say about it, up to 16 KiB
	Unread  []byte // what was read from a connection and not yet used, up to 32 KiB

	files *received // of an item that was received
	index int
}

// received are the descriptors of a frame of items. The program takes them, and the driver closes those that it has
// not taken if the handoff comes to nothing, which may be at any moment.
type received struct {
	mu    sync.Mutex
	files scm.Files
}

// use returns the descriptors, which nobody else touches until done. Both work on nil, of an item that is offered.
func (r *received) use() *scm.Files {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	return &r.files
}

func (r *received) done() {
	if r != nil {
		r.mu.Unlock()
	}
}

// append appends the item's record, without its descriptor.
func (it *Item) append(b []byte) []byte {
	begin := len(b)
	b = appendBytes(b, tagItem, nil)
	b = appendString(b, tagName, it.Name)
	b = appendBytes(b, tagKind, []byte{byte(it.Kind)})
	if it.Backlog != 0 {
		b = appendUint32(b, tagBacklog, uint32(it.Backlog))
	}
	if len(it.Meta) > 0 {
		b = appendBytes(b, tagMeta, it.Meta)
	}
	if len(it.Unread) > 0 {
		b = appendBytes(b, tagUnread, it.Unread)
	}
	setLength(b[begin:])
	return b
}

// parseItem reads an item's records.
func parseItem(b []byte) (it Item, err error) {
	err = records(b, func(t tag, v []byte) error {
		switch t {
		case tagName:
			it.Name = string(v)
		case tagKind:
			if len(v) != 1 {
				return errWire
			}
			it.Kind = Kind(v[0])
		case tagBacklog:
			n, err := uint32Of(v)
			it.Backlog = int(n)
			return err
		case tagMeta:
			it.Meta = append([]byte(nil), v...)
		case tagUnread:
			it.Unread = append([]byte(nil), v...)
		}
		return nil
	})
	if err != nil {
		return Item{}, err
	}
	return it, it.check()
}

// check holds for what is sent and for what is received.
func (it *Item) check() error {
	switch {
	case it.Name == "" || len(it.Name) > maxName:
		return errors.WithMessagef(ErrItem, "a name of %d bytes", len(it.Name))
	case it.Kind == 0 || it.Kind >= kinds:
		return errors.WithMessagef(ErrItem, "%q is of unknown kind %d", it.Name, it.Kind)
	case len(it.Meta) > maxMeta:
		return errors.WithMessagef(ErrItem, "%q has %d bytes of metadata, %d are the limit", it.Name, len(it.Meta), maxMeta)
	case len(it.Unread) > maxUnread:
		return errors.WithMessagef(ErrItem, "%q has %d unread bytes, %d are the limit", it.Name, len(it.Unread), maxUnread)
	case it.Backlog < 0 || it.Backlog > 1<<30:
		return errors.WithMessagef(ErrItem, "%q has a backlog of %d", it.Name, it.Backlog)
	}
	return nil
}

// size is how many bytes the program has put into the item.
func (it *Item) size() int { return len(it.Meta) + len(it.Unread) }

// checkItems returns an error if items, to be sent when before were, cannot be.
func checkItems(before, items []Item) error {
	if n := len(before) + len(items); n > maxItems {
		return errors.WithMessagef(ErrItem, "%d items, %d are the limit", n, maxItems)
	}
	size := 0
	for i := range before {
		size += before[i].size()
	}
	for i := range items {
		if err := items[i].check(); err != nil {
			return err
		}
		size += items[i].size()
	}
	if size > maxContent {
		return errors.WithMessagef(ErrItem, "the items have %d bytes of metadata and unread bytes, %d are the limit", size, maxContent)
	}
	return nil
}

// verify compares a received item with what its descriptor is. TakeConn does that for a connection: there may be
// thousands, and one that is none should not keep the service from moving.
func (it *Item) verify() error {
	if it.Kind == File || it.Kind == Connection {
		return nil
	}
	err := sysfd.Control(it.files.files.Lend(it.index), func(fd int) error {
		if err := sysfd.CheckListening(fd, it.Kind == Listener); err != nil || it.Kind != PacketConn {
			return err
		}
		return sysfd.CheckDatagram(fd)
	})
	if err != nil {
		return errors.WithMessagef(because(ErrItem, err), "%q is offered as a %v", it.Name, it.Kind)
	}
	return nil
}

// TakeListener gives the item to the caller as a listener, which does not unlink a path when it is
// closed. This and the other Takes are for items that were received; their errors are those of
// scm.Files, and after one the item is still there.
func (it *Item) TakeListener() (net.Listener, error) {
	files := it.files.use()
	defer it.files.done()
	return files.TakeListener(it.index)
}

// TakeConn gives the item to the caller as a connection. Read Unread first. What is no connection is an error here,
// not of the handoff.
func (it *Item) TakeConn() (net.Conn, error) {
	files := it.files.use()
	defer it.files.done()
	return files.TakeConn(it.index)
}

// TakePacketConn gives the item to the caller as a packet socket.
func (it *Item) TakePacketConn() (net.PacketConn, error) {
	files := it.files.use()
	defer it.files.done()
	return files.TakePacketConn(it.index)
}

// TakeFile gives the item to the caller as a file, nil if it was taken.
func (it *Item) TakeFile() *os.File {
	files := it.files.use()
	defer it.files.done()
	return files.Take(it.index)
}

// TakeFD gives the item to the caller as a number, -1 if it was taken: who keeps thousands of
// files for others pays for no *os.File.
func (it *Item) TakeFD() int {
	files := it.files.use()
	defer it.files.done()
	return files.TakeFD(it.index)
}

// Close closes the item's descriptor if nobody took it. Of an item that is offered it does nothing.
func (it *Item) Close() error {
	sysfd.CloseAll([]int{it.TakeFD()})
	return nil
}
