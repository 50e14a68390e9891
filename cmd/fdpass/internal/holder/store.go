//go:build unix

package holder

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fdkit/fdkit/handoff"
	"github.com/fdkit/fdkit/internal/sysfd"
)

// A store is what a holder holds. An entry's descriptor is closed when nobody uses it any more: the
// store itself, an answer that is being sent, a handoff.
type store struct {
	limits Limits
	closer *closer
	svc    *handoff.Service // nil outside a service
	wake   chan struct{}    // for run: see what follows

	mu        sync.Mutex
	entries   map[string]*entry
	open      int            // descriptors, those that are being closed too
	owned     map[uint32]int // the same by owner
	next      uint64
	soonest   Tain     // when run looks for what has expired; the zero Tain is never
	forgotten []*entry // that the service is to forget
}

// Limits are how many descriptors a holder takes.
type Limits struct {
	Max   int // in all
	Quota int // of one user; 0 is as many as in all
}

// An entry is one descriptor.
type entry struct {
	Entry
	id      uint64
	fd      int
	owner   uint32
	uses    int  // guarded by the store
	leaving bool // it is on its way to a client that takes it away; likewise
	closed  chan struct{}
}

func newStore(limits Limits) *store {
	return &store{
		limits: limits, closer: newCloser(), wake: make(chan struct{}, 1),
		entries: map[string]*entry{}, owned: map[uint32]int{},
	}
}

// run drops what expires, and lets the service forget what was dropped, until ctx is done.
func (s *store) run(ctx context.Context) {
	for {
		s.mu.Lock()
		s.soonest = s.expire(TainOf(time.Now()))
		soonest, forgotten := s.soonest, s.forgotten
		s.forgotten = nil
		s.mu.Unlock()
		for _, e := range forgotten {
			s.svc.Forget(itemName(e.id)) // waits for a handoff, which has borrowed it
			s.release(e)
		}
		var expiry <-chan time.Time
		if at, ok := soonest.Time(); ok && soonest != (Tain{}) {
			// The clock may be set, or the machine sleep.
			expiry = time.After(min(max(time.Until(at), 0), time.Minute))
		}
		select {
		case <-expiry:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *store) awake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// SyscallConn lends the descriptor, for Control only: nobody waits on what is held.
func (e *entry) SyscallConn() (syscall.RawConn, error) { return lent(e.fd), nil }

// add takes descriptors over that owner stores, all or none. After an errno they are still the
// caller's.
func (s *store) add(owner uint32, entries []Entry, fds []int) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	quota := cmp.Or(s.limits.Quota, s.limits.Max)
	switch {
	case s.open+len(fds) > s.limits.Max:
		return syscall.ENFILE
	case s.owned[owner]+len(fds) > quota:
		return syscall.EDQUOT
	}
	now := TainOf(time.Now())
	for i, e := range entries {
		s.dropExpired(s.entries[e.Name], now)
		if s.entries[e.Name] != nil || slices.ContainsFunc(entries[:i], func(f Entry) bool { return f.Name == e.Name }) {
			return syscall.EBUSY
		}
	}
	for i, e := range entries {
		s.next++
		s.put(&entry{Entry: e, id: s.next, fd: fds[i], owner: owner})
	}
	return 0
}

// put adds a new entry. The store is locked.
func (s *store) put(e *entry) {
	e.uses, e.closed = 1, make(chan struct{})
	s.entries[e.Name] = e
	s.open++
	s.owned[e.owner]++
	if s.svc != nil {
		e.uses++ // until it is forgotten
		_ = s.svc.Keep(handoff.Item{Name: itemName(e.id), Kind: handoff.File, Conn: e, Meta: appendMeta(nil, e)})
	}
	if _, expires := e.Expiry.Time(); expires && (s.soonest == Tain{} || e.Expiry.Before(s.soonest)) {
		s.soonest = e.Expiry
		s.awake()
	}
}

// drop takes an entry out, which need not be there. The store is locked.
func (s *store) drop(e *entry) {
	if e == nil || s.entries[e.Name] != e {
		return
	}
	delete(s.entries, e.Name)
	s.unuse(e)
	if s.svc != nil {
		s.forgotten = append(s.forgotten, e)
		s.awake()
	}
}

func (s *store) dropExpired(e *entry, now Tain) {
	if e != nil && !now.Before(e.Expiry) {
		s.drop(e)
	}
}

// unuse ends one use of an entry. The store is locked.
func (s *store) unuse(e *entry) {
	if e.uses--; e.uses > 0 {
		return
	}
	s.closer.close(e.owner, e.fd, func() {
		s.mu.Lock()
		s.open--
		if s.owned[e.owner]--; s.owned[e.owner] == 0 {
			delete(s.owned, e.owner)
		}
		s.mu.Unlock()
		close(e.closed)
	})
}

// release ends a use that get, take or all have begun.
func (s *store) release(entries ...*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		s.unuse(e)
	}
}

// find returns what has this name and has not expired. The store is locked.
func (s *store) find(name string) *entry {
	s.dropExpired(s.entries[name], TainOf(time.Now()))
	e := s.entries[name]
	if e == nil || e.leaving {
		return nil
	}
	return e
}

// get begins a use of what has this name, nil if nothing has. A leaving entry is nobody else's; its name
// is not free until left says that it is gone.
func (s *store) get(name string, leaving bool) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(name)
	if e != nil {
		e.uses++
		e.leaving = leaving
	}
	return e
}

// left says whether a leaving entry has arrived. If not, it stays. The use that get has begun ends.
func (s *store) left(e *entry, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.leaving = false
	if gone {
		s.drop(e)
	}
	s.unuse(e)
}

// remove drops what has this name. It waits a moment for its close, so that a port is free when its
// descriptor is deleted.
func (s *store) remove(name string) syscall.Errno {
	s.mu.Lock()
	e := s.find(name)
	if e == nil {
		s.mu.Unlock()
		return syscall.ENOENT
	}
	s.drop(e)
	s.mu.Unlock()
	moment := time.NewTimer(50 * time.Millisecond)
	defer moment.Stop()
	select {
	case <-e.closed:
	case <-moment.C:
	}
	return 0
}

// all returns the entries whose names pass, in the order in which they came, and begins a use of them.
func (s *store) all(pass func(name string) bool) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(TainOf(time.Now()))
	entries := make([]*entry, 0, len(s.entries))
	for _, e := range s.entries {
		if !e.leaving && pass(e.Name) {
			e.uses++
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
	return entries
}

// expire drops what has expired and returns when the next one will; the zero Tain is never. The store
// is locked.
func (s *store) expire(now Tain) (next Tain) {
	for _, e := range s.entries {
		if !now.Before(e.Expiry) {
			s.drop(e)
		} else if _, expires := e.Expiry.Time(); expires && (next == Tain{} || e.Expiry.Before(next)) {
			next = e.Expiry
		}
	}
	return next
}

// ids returns those of all entries.
func (s *store) ids() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]uint64, 0, len(s.entries))
	for _, e := range s.entries {
		ids = append(ids, e.id)
	}
	return ids
}

// retain drops all entries but those with one of the ids.
func (s *store) retain(ids []uint64) {
	keep := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		keep[id] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Collect(maps.Values(s.entries)) {
		if !keep[e.id] {
			s.drop(e)
		}
	}
}

// lent is a descriptor that is lent.
type lent int

// Control lends the number.
func (n lent) Control(f func(fd uintptr)) error {
	f(uintptr(n))
	return nil
}

// Read is not for what is lent.
func (lent) Read(func(fd uintptr) bool) error { return syscall.ENOTSUP }

// Write is not for what is lent.
func (lent) Write(func(fd uintptr) bool) error { return syscall.ENOTSUP }

// FD is the number of a descriptor that this process has inherited or received, as a syscall.Conn whose
// RawConn knows only Control. It does not own it.
type FD int

// SyscallConn lends the descriptor.
func (fd FD) SyscallConn() (syscall.RawConn, error) { return lent(fd), nil }

// Close closes the descriptor.
func (fd FD) Close() error {
	sysfd.CloseAll([]int{int(fd)})
	return nil
}
