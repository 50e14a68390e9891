//go:build unix

package holder

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// What a client can take of a holder.
const (
	maxConnections        = 256
	maxConnectionsPerUser = 64
	idleTime              = 30 * time.Second // until its next request is complete
	answerTime            = 30 * time.Second // until it has read an answer
)

// A server answers clients.
type server struct {
	*store
	rules  []Rule
	path   string // at which a successor is found
	log    *slog.Logger
	slots  chan struct{}
	spare  []int // to close when the table is full, so that a client can come and hear it
	active sync.WaitGroup

	passing sync.Mutex // of connections to the successor, one at a time

	mu      sync.Mutex
	lent    bool // the numbers of spare
	state   serverState
	change  chan struct{} // closed at the next change of state
	freezes int
	busy    int // clients whose request is being answered
	clients map[*client]struct{}
	users   map[uint32]int // connections
}

// A serverState says whether requests are answered.
type serverState int

const (
	frozen  serverState = iota // requests wait: another process may be about to have everything
	serving                    //
	handed                     // connections go to the successor
	ended                      // and are closed
)

func newServer(s *store, rules []Rule, path string, log *slog.Logger) *server {
	return &server{
		store: s, rules: rules, path: path, log: log,
		slots: make(chan struct{}, maxConnections), change: make(chan struct{}),
		clients: map[*client]struct{}{}, users: map[uint32]int{},
	}
}

// A client is one connection.
type client struct {
	*server
	ch      *channel
	peer    credentials.Cred
	access  access
	rest    int  // entries to come of a restore
	adopted bool // from the predecessor

	unread    []byte // of a connection that a predecessor will pass on
	unreadFDs []int
	unreadFor int
}

// set changes the state. Idle clients are woken.
func (s *server) set(state serverState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(state)
}

func (s *server) setLocked(state serverState) {
	if s.state == state || s.state > serving {
		return
	}
	s.state = state
	close(s.change)
	s.change = make(chan struct{})
	if state > serving {
		for c := range s.clients {
			_ = c.ch.conn.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// freeze has requests wait, and waits a moment for those that are being answered. What one of them still
// changes is seen at the end, in the state that goes with the commit.
func (s *server) freeze() (number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(frozen)
	s.freezes++
	number = s.freezes
	moment := time.NewTimer(50 * time.Millisecond)
	defer moment.Stop()
	for over := false; s.busy > 0 && !over; {
		change := s.change
		s.mu.Unlock()
		select {
		case <-change:
		case <-moment.C:
			over = true
		}
		s.mu.Lock()
	}
	return number
}

// thaw ends a freeze, unless there was another one since.
func (s *server) thaw(number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.freezes == number && s.state == frozen {
		s.setLocked(serving)
	}
}

// enter waits while the server is frozen. It reports whether the client's request is to be answered here;
// leave follows then.
func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.state == frozen {
		change := s.change
		s.mu.Unlock()
		<-change
		s.mu.Lock()
	}
	if s.state != serving {
		return false
	}
	s.busy++
	return true
}

func (s *server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy--; s.busy == 0 && s.state == frozen {
		close(s.change)
		s.change = make(chan struct{})
	}
}

// over reports whether this process answers no more.
func (s *server) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state > serving
}

// serve accepts until the listener ends.
func (s *server) serve(ln net.Listener) {
	s.refill()
	for {
		s.slots <- struct{}{}
		accepted, err := ln.Accept()
		if err != nil {
			<-s.slots
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case errors.Is(err, unix.EMFILE):
				// accept(2) says so before it looks whether somebody is there.
				if awaitClient(ln); s.lend() {
					continue // and is to hear why
				}
			}
			s.log.Warn("accept", "reason", err)
			time.Sleep(50 * time.Millisecond) // nothing tells when there is room again
			continue
		}
		s.active.Go(func() {
			defer func() { <-s.slots }()
			s.welcome(accepted)
			s.refill()
		})
	}
}

// awaitClient returns when accept(2) would find somebody, or the listener is closed. A listener lends its
// descriptor for a moment only, as its Close waits for that; so a moment at a time.
func awaitClient(ln net.Listener) {
	for n := 0; n == 0; {
		err := sysfd.Control(ln.(syscall.Conn), func(fd int) (err error) {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			return err
		})
		if err != nil && err != unix.EINTR {
			return
		}
		n = max(n, 0)
	}
}

// spares is more than it takes to welcome a client, as the last one may not be gone.
const spares = 16

// refill opens spare descriptors, unless they were closed for a client that is on its way in.
func (s *server) refill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.spare) < spares && !s.lent {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		s.spare = append(s.spare, fd)
	}
}

// lend closes the spare descriptors for a client that comes in, and reports whether there were any.
func (s *server) lend() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent = true
	had := len(s.spare) > 0
	sysfd.CloseAll(s.spare)
	s.spare = nil
	return had
}

// welcomed ends lend: what is free now is not for what the client brings.
func (s *server) welcomed() {
	s.mu.Lock()
	s.lent = false
	s.mu.Unlock()
	s.refill()
}

// welcome serves a connection that was accepted.
func (s *server) welcome(accepted net.Conn) {
	conn, err := unixConn(accepted.(syscall.Conn))
	if errors.Is(err, unix.EMFILE) && s.lend() {
		conn, err = unixConn(accepted.(syscall.Conn))
	}
	_ = accepted.Close()
	s.welcomed()
	if err != nil {
		s.log.Warn("accept", "reason", err)
		return
	}
	s.attend(&client{ch: newChannel(conn, maxRequest+maxUnread)})
}

// unixConn returns a connection of its own for the socket of c, which stays its owner's.
func unixConn(c syscall.Conn) (*scm.Conn, error) {
	var dup int
	err := sysfd.Control(c, func(fd int) (err error) {
		dup, err = sysfd.Dup(fd)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ownConn(dup)
}

// ownConn makes a connection of a socket's number, which it takes over in any case.
func ownConn(fd int) (*scm.Conn, error) {
	f := os.NewFile(uintptr(fd), "client")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, scm.ErrNotUnix
	}
	c, err := scm.NewConn(u)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// attend serves a connection to its end, and closes it.
func (s *server) attend(c *client) {
	conn := c.ch.conn
	c.server = s
	c.peer, _ = credentials.Peer(conn)
	c.access = accessOf(conn, s.rules)
	if status := s.admit(c); status != 0 {
		s.log.Warn("refused", "peer", c.peer, "reason", status)
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = c.answer(status)
		c.close()
		return
	}
	defer s.dismiss(c)
	err := c.serve()
	if err != nil && err != io.EOF {
		s.log.Warn("connection ended", "peer", c.peer, "reason", err)
	}
}

// admit counts a client.
func (s *server) admit(c *client) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(c.access) == 0:
		return syscall.EPERM
	case c.adopted: // the predecessor has counted it
	case s.users[c.peer.UID] >= maxConnectionsPerUser:
		return syscall.EAGAIN
	default:
		s.users[c.peer.UID]++
	}
	s.clients[c] = struct{}{}
	return 0
}

func (s *server) dismiss(c *client) {
	c.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	if c.adopted {
		return
	}
	if s.users[c.peer.UID]--; s.users[c.peer.UID] == 0 {
		delete(s.users, c.peer.UID)
	}
}

// close closes the connection, and what the client has sent and nobody took. A descriptor that is still
// in the socket's queue is closed by this close(2), in this goroutine, which has a slot.
func (c *client) close() {
	_, fds := c.ch.rest()
	c.closer.closeAll(c.peer.UID, append(fds, c.unreadFDs...))
	_ = c.ch.conn.Close()
}

// serve answers the client's requests until it goes.
func (c *client) serve() error {
	for {
		_ = c.ch.conn.SetReadDeadline(time.Now().Add(idleTime))
		if c.over() {
			return c.pass()
		}
		if err := c.ch.await(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && c.over() {
				return c.pass()
			}
			if errors.Is(err, scm.ErrFilesLost) {
				// The frame is lost with its descriptors, but its client can hear why.
				c.log.Warn("descriptors lost", "peer", c.peer, "reason", err)
				_ = c.ch.conn.SetWriteDeadline(time.Now().Add(time.Second))
				return c.answer(syscall.EMFILE)
			}
			return err
		}
		if !c.enter() {
			return c.pass()
		}
		payload, fds := c.ch.take()
		_ = c.ch.conn.SetWriteDeadline(time.Now().Add(answerTime))
		err := c.handle(payload, fds)
		c.leave()
		if err != nil {
			return err
		}
	}
}

// handle answers one request, and takes its descriptors over.
func (c *client) handle(payload []byte, fds []int) error {
	r, err := parseRequest(payload, len(fds))
	if err == nil && c.rest > 0 != (r.op == opEntries) {
		err = errors.WithMessagef(ErrProtocol, "request %q in the middle, or outside, of a restore", r.op)
	}
	if err != nil {
		c.closer.closeAll(c.peer.UID, fds)
		return err
	}
	switch r.op {
	case opStore, opEntries:
		return c.handleStore(r, fds)
	case opUnread, opAdopt:
		return c.handleAdopt(r, fds)
	case opRetrieve:
		return c.retrieve(r)
	case opList:
		return c.list()
	case opDump:
		return c.dump()
	case opRestore:
		switch {
		case !c.access.has(Restore):
			return c.answer(syscall.EPERM)
		case r.count > c.limits.Max:
			return c.answer(syscall.ENFILE)
		}
		c.rest = r.count
		return c.ch.write(binary.BigEndian.AppendUint32([]byte{0}, uint32(trips(r.count))))
	}
	// opDelete
	if !c.access.may(Store, r.name) {
		return c.answer(syscall.EPERM)
	}
	status := c.remove(r.name)
	c.note("delete", r.name, 1, status)
	return c.answer(status)
}

// note logs what a client did or was refused.
func (c *client) note(what, name string, count int, status syscall.Errno) {
	if status == 0 {
		c.log.Info(what, "peer", c.peer, "name", name, "count", count)
	} else {
		c.log.Warn(what, "peer", c.peer, "name", name, "count", count, "refused", status)
	}
}

// answer sends a status. All errnos of Linux that are used here fit.
func (c *client) answer(status syscall.Errno) error { return c.ch.write([]byte{byte(status)}) }

func (c *client) handleStore(r request, fds []int) error {
	entries, right := r.entries, Restore
	if r.op == opEntries && len(fds) > c.rest {
		c.closer.closeAll(c.peer.UID, fds)
		return errors.WithMessagef(ErrProtocol, "more entries than were announced")
	}
	if r.op == opStore {
		entries, right = []Entry{{r.name, r.expiry}}, Store
	}
	status := syscall.Errno(0)
	for i, e := range entries {
		switch {
		case !c.access.may(right, e.Name):
			status = syscall.EPERM
		case c.isOwn(fds[i]):
			status = syscall.ELOOP
		}
	}
	if status == 0 {
		status = c.add(c.peer.UID, entries, fds)
	}
	if status != 0 {
		c.closer.closeAll(c.peer.UID, fds)
	}
	c.note("store", entries[0].Name, len(fds), status)
	if r.op == opEntries {
		if c.rest -= len(fds); status != 0 {
			c.rest = 0
		} else if c.rest > 0 {
			status = syscall.EAGAIN // go on
		}
	}
	return c.answer(status)
}

// isOwn reports whether a descriptor is a connection to this holder. Kept here, it would wait for itself:
// nobody would see the end of it.
func (c *client) isOwn(fd int) bool {
	own := ""
	_ = sysfd.Control(c.ch.conn, func(fd int) error {
		own = unixName(unix.Getsockname(fd))
		return nil
	})
	return own != "" && (unixName(unix.Getpeername(fd)) == own || unixName(unix.Getsockname(fd)) == own)
}

func unixName(sa unix.Sockaddr, err error) string {
	if u, ok := sa.(*unix.SockaddrUnix); err == nil && ok && u.Name != "@" {
		return u.Name
	}
	return ""
}

func (c *client) retrieve(r request) error {
	if !c.access.may(Retrieve, r.name) || r.remove && !c.access.may(Store, r.name) {
		return c.answer(syscall.EPERM)
	}
	e := c.get(r.name, r.remove)
	if e == nil {
		return c.answer(syscall.ENOENT)
	}
	err := c.send([]byte{0}, []*entry{e})
	if r.remove {
		c.left(e, err == nil)
	} else {
		c.release(e)
	}
	c.note("retrieve", r.name, 1, 0)
	return err
}

// send sends a frame with descriptors. An ordinary user may have only so many on the way.
func (c *client) send(payload []byte, entries []*entry) error {
	fds := make([]int, len(entries))
	for i, e := range entries {
		fds[i] = e.fd
	}
	for deadline := time.Now().Add(answerTime); ; time.Sleep(5 * time.Millisecond) { // nothing tells when others have received
		err := c.ch.write(payload, fds...)
		if !errors.Is(err, scm.ErrInFlight) || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *client) list() error {
	if !c.access.has(List) {
		return c.answer(syscall.EPERM)
	}
	entries := c.all(func(name string) bool { return c.access.may(List, name) })
	defer c.release(entries...)
	size := 5
	for _, e := range entries {
		size += len(e.Name) + 1
	}
	n := -1
	return c.ch.writeLong(size, func(b []byte) []byte {
		if n++; n == 0 {
			return binary.BigEndian.AppendUint32(append(b, 0), uint32(len(entries)))
		}
		if n > len(entries) {
			return b
		}
		return append(append(b, entries[n-1].Name...), 0)
	})
}

func (c *client) dump() error {
	if !c.access.has(Dump) {
		return c.answer(syscall.EPERM)
	}
	entries := c.all(func(name string) bool { return c.access.may(Dump, name) })
	defer c.release(entries...)
	c.note("dump", "", len(entries), 0)
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(trips(len(entries))))
	if err := c.ch.write(binary.BigEndian.AppendUint32(head, uint32(len(entries)))); err != nil {
		return err
	}
	var payload []byte
	for rest := entries; len(rest) > 0; {
		n := min(len(rest), maxFDs)
		payload = payload[:0]
		for _, e := range rest[:n] {
			payload = appendEntry(payload, e.Entry)
		}
		if err := c.send(payload, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// pass gives the connection to the successor, if there is one, with what was read of it and not answered.
// Its client notices nothing.
func (c *client) pass() error {
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	if state != handed {
		return nil
	}
	unread, fds := c.ch.rest()
	defer c.closer.closeAll(c.peer.UID, fds)
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	c.passing.Lock() // not as many connections more as there are
	defer c.passing.Unlock()
	for {
		err := c.passTo(ctx, unread, fds)
		if !errors.Is(err, syscall.EAGAIN) || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond) // nothing tells when our user has fewer connections
	}
}

// passTo is one attempt of pass.
func (c *client) passTo(ctx context.Context, unread []byte, fds []int) error {
	successor, err := Dial(ctx, c.path)
	if err != nil {
		return err
	}
	defer successor.Close()
	return successor.adopt(request{op: opUnread, count: c.rest, unread: unread}, fds, c.ch.conn)
}

// handleAdopt takes a connection over from the predecessor.
func (c *client) handleAdopt(r request, fds []int) error {
	if owner.Check(c.ch.conn) != nil {
		c.closer.closeAll(c.peer.UID, fds)
		return c.answer(syscall.EPERM)
	}
	if r.op == opUnread {
		c.unread, c.unreadFDs, c.unreadFor = append(c.unread, r.unread...), append(c.unreadFDs, fds...), r.count
		if len(c.unread) > maxRequest+maxUnread || len(c.unreadFDs) > 3*maxFDs {
			return errMalformed
		}
		return nil
	}
	conn, err := ownConn(fds[0])
	if err != nil {
		return err
	}
	passed := &client{ch: newChannel(conn, maxRequest+maxUnread), rest: c.unreadFor, adopted: true}
	passed.ch.in, passed.ch.fds = c.unread, c.unreadFDs
	c.unread, c.unreadFDs, c.unreadFor = nil, nil, 0
	c.active.Go(func() { c.server.attend(passed) })
	return c.answer(0)
}
