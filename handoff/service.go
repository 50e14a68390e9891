package handoff

import (
	"context"
	"maps"
	"net"
	"net/http"
	"os"
	ossignal "os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/systemd"
)

// A Service is one generation of a service: one process, from [Start] to the end of [Service.Drain].
type Service struct {
	options    Options
	generation uint64
	ctx        context.Context // of the service, for what goes on in the background
	cancel     context.CancelFunc
	background sync.WaitGroup

	takeover *Takeover // from a predecessor; nil if there was none
	arrivals *arrivals // of connections that it passes on; nil if it passes none on
	control  *control  // nil without a path
	initial  *initial  // of pid 1, while it serves and has a successor
	first    *scm.Conn // to pid 1, if that has served before
	manager  *manager  // nil without one

	inherited systemd.Files // from the manager

	mu       sync.Mutex
	sockets  map[string]*socket
	order    []string         // of sockets, as they were made
	left     map[string]bool  // sockets that the successor does not want
	kept     map[string]Item  // of Keep
	adopted  map[string]*Item // by name, not yet claimed
	ready    bool
	taking   atomic.Bool // a successor is here
	handing  sync.Mutex  // while it takes over
	giveUp   func()      // ends the one that is under way, if it was not committed
	mover    *mover      // when a successor serves that takes connections
	told     bool        // Stop was called
	stopping chan struct{}
	reason   Reason

	drains  []draining
	servers map[*http.Server]*httpDrain
}

// A Reason says why a service stops.
type Reason string

// The reasons.
const (
	// HandedOver: a successor serves for good. What is left is to finish what is under way.
	HandedOver Reason = "handed over"

	// Told: the program was told to stop, by a signal or by Stop, and nobody follows.
	Told Reason = "told to stop"
)

// reserved names of items that are the service's own.
const (
	controlItem = "fdkit:control"
	lockItem    = "fdkit:lock"
	movesItem   = "fdkit:moves"
	initItem    = "fdkit:init"
	reserved    = "fdkit:"
)

// Start finds the predecessor, if there is one, and takes over everything that it has; the predecessor
// goes on serving until [Service.Ready]. It looks, in this order, at the socketpair that a process
// passes to the successor that it has started ([Service.Upgrade]) and at Options.Socket; if nobody
// is there, the service begins afresh. ctx bounds Start.
//
// It takes the descriptors of a service manager, [systemd.Inherited]: Listen and ListenPacket give its
// sockets, others are to be taken before Ready. If a manager wants to hear of the service (Type=notify, the
// variable NOTIFY_SOCKET), it is told: ready, a handoff as a reload, which process is the main one, that
// the program stops; and the watchdog that this process runs, which says nothing about how well. Both change
// variables of the environment, for the sake of children.
//
// After an error the program should end: [ErrKept] and [ErrPredecessorHung] mean that another process
// has the service. ErrKept matches credentials.ErrDenied as well if that process does not permit this one, or
// this one not that: a user who has no number in the user namespace of the other side is nobody there.
func Start(ctx context.Context, o Options) (*Service, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, errors.WithMessage(err, "handoff: start")
	}
	s := &Service{
		options:    o,
		generation: 1,
		sockets:    map[string]*socket{},
		left:       map[string]bool{},
		kept:       map[string]Item{},
		adopted:    map[string]*Item{},
		stopping:   make(chan struct{}),
		servers:    map[*http.Server]*httpDrain{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.inherited, err = systemd.Inherited(); err == nil {
		s.initial, err = newInitial(s.options.StopSignals)
	}
	if err != nil {
		s.cancel()
		return nil, errors.WithMessage(err, "handoff: start")
	}
	if err := s.find(ctx); err != nil {
		s.initial.close()
		_ = s.first.Close()
		s.arrivals.end(s.ctx)
		s.release()
		s.cancel()
		return nil, err
	}
	s.manager = newManager(s)
	watch := s.catchSignals()
	if s.takeover == nil {
		s.tell(Event{Kind: EventFresh})
	} else {
		s.tell(Event{Kind: EventAdopted, PID: s.takeover.PID(), Count: len(s.takeover.Items)})
	}
	watch()
	return s, nil
}

// find takes over from the predecessor, or begins afresh.
func (s *Service) find(ctx context.Context) error {
	if number, ok := os.LookupEnv(childVariable); ok {
		_ = os.Unsetenv(childVariable) // not for our own children
		fd, err := strconv.Atoi(number)
		if err != nil {
			return errors.WithMessagef(err, "handoff: $%s", childVariable)
		}
		c, err := scm.Inherit(uintptr(fd))
		if err != nil {
			return errors.WithMessagef(err, "handoff: $%s", childVariable)
		}
		// It made the pair, so this names it, and cannot be forged.
		parent, _ := credentials.PeerProcess(c)
		defer parent.Close()
		err = s.takeFrom(ctx, c)
		switch {
		case errors.Is(err, ErrPredecessorGone):
		case errors.Is(err, credentials.ErrPeerGone) && hasDied(ctx, parent):
		default:
			return err
		}
		// It died before it had handed over. Somebody must serve.
	}
	if s.options.Socket == "" {
		return nil
	}
	return s.findByPath(ctx)
}

// hasDied reports whether p is dead, or is about to be: a process closes its files before it has ended.
func hasDied(ctx context.Context, p *credentials.Process) bool {
	if p == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, deathNotice)
	defer cancel()
	return p.Wait(ctx) == nil
}

func (s *Service) wish() Wish {
	return Wish{
		Name: s.options.Name, Policy: s.options.Policy, Force: s.options.Force, Deadlines: s.options.Deadlines,
		Progress: func(n, total int) { s.tell(Event{Kind: EventItems, Count: n, Total: total}) },
	}
}

func (s *Service) takeFrom(ctx context.Context, c *scm.Conn) error {
	t, err := Take(ctx, c, s.wish())
	if err != nil {
		return err
	}
	s.takeover = t
	s.generation = t.Generation + 1
	for i := range t.Items {
		if err := s.adopt(&t.Items[i]); err != nil {
			t.Abort(err)
			return err
		}
	}
	if c := s.control; c != nil && (c.ln == nil || c.lock == nil) {
		err := errors.WithMessage(ErrItem, "the control socket and its lock do not come together")
		t.Abort(err)
		return err
	}
	return nil
}

// adopt takes an item of the service's own, and keeps one of the program's until it is claimed.
func (s *Service) adopt(it *Item) (err error) {
	// Names are unique, but those of connections need not be.
	twice := func() error { return errors.WithMessagef(ErrItem, "two items are called %q", it.Name) }
	switch it.Name {
	case controlItem, lockItem:
		return s.adoptControl(it)
	case movesItem:
		if s.arrivals != nil {
			return twice()
		}
		if s.arrivals, err = newArrivals(it); errors.Is(err, credentials.ErrPeerGone) {
			err = nil // dead already, to Linux before 6.16: none will come, and the service is this process's
		}
	case initItem:
		if s.first != nil {
			return twice()
		}
		s.first, err = takeChannel(it)
	default:
		if strings.HasPrefix(it.Name, reserved) {
			return it.Close() // of a later version
		}
		if s.adopted[it.Name] != nil {
			return twice()
		}
		s.adopted[it.Name] = it
	}
	return err
}

// claim returns the adopted item of this name, once.
func (s *Service) claim(name string, kind Kind) (*Item, error) {
	it := s.adopted[name]
	if it == nil {
		return nil, nil
	}
	if it.Kind != kind {
		return nil, errors.WithMessagef(ErrItem, "%q is a %v of the predecessor's, not a %v", name, it.Kind, kind)
	}
	delete(s.adopted, name)
	return it, nil
}

// unusedName makes names of what is listened on: a second socket on the same address is another one.
func (s *Service) unusedName(network, address string) string {
	name := network + "://" + address
	for i := 2; s.sockets[name] != nil; i++ {
		name = network + "://" + address + "#" + strconv.Itoa(i)
	}
	return name
}

// Listen returns the predecessor's listening socket for this network and address, or the service manager's, or
// makes one. The network is one of "tcp", "tcp4", "tcp6", "unix" and "unixpacket". Sockets are known by
// what Listen is called with: "tcp" with ":0" is the predecessor's ":0", whatever port it got, and the second
// call with the same arguments is its second socket. Call it before Ready.
//
// The manager's is the one at this address. With the network "systemd", the address is a name, what
// FileDescriptorName= says, or the unit's; it is os.ErrNotExist if there is none. The manager keeps such a socket:
// its path is never removed here, and clients that come when nobody serves wait for the next process.
//
// Accept waits, without an error, until [Service.Ready] has returned, and again when a successor takes
// over. The service owns the socket; closing the listener ends its Accept.
func (s *Service) Listen(network, address string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.unusedName(network, address)
	k, err := s.openListener(name, network, address)
	if err != nil {
		return nil, errors.WithMessagef(err, "handoff: listen on %s %s", network, address)
	}
	s.add(k)
	return k.listener, nil
}

// ListenPacket is Listen for datagram sockets: "udp", "udp4", "udp6", "unixgram". There is one reader at
// any time: reads wait until Ready has returned, and again when a successor takes over. Names of the network
// "systemd" are told from those of Listen by the order of the calls only, if they are the same.
func (s *Service) ListenPacket(network, address string) (net.PacketConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.unusedName(network, address)
	k, err := s.openPacketConn(name, network, address)
	if err != nil {
		return nil, errors.WithMessagef(err, "handoff: listen on %s %s", network, address)
	}
	s.add(k)
	return k.packet, nil
}

func (s *Service) add(k *socket) {
	s.sockets[k.name] = k
	s.order = append(s.order, k.name)
}

// Keep adds an open file to what a successor gets: a terminal, a connection, a memfd with state. It
// borrows the item's Conn until [Service.Forget], and the file stays the caller's also after a
// handoff. The successor finds it in [Service.Adopted]. A second one of the same name replaces the
// first.
func (s *Service) Keep(it Item) error {
	if err := it.check(); err != nil {
		return err
	}
	if it.Kind == Listener || it.Kind == PacketConn {
		return errors.WithMessagef(ErrItem, "%q is a %v: use Listen or ListenPacket", it.Name, it.Kind)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[it.Name] = it
	return nil
}

// Forget takes back what Keep has added. It waits for a handoff that is under way.
func (s *Service) Forget(name string) {
	s.handing.Lock()
	defer s.handing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, name)
}

// Adopted gives the caller what the predecessor had kept with [Service.Keep], in the order of the names.
// The caller closes the items. Call it before Ready, which closes what nobody wants.
func (s *Service) Adopted() []Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	var items []Item
	for name, it := range s.adopted {
		if it.Kind == Connection || it.Kind == File {
			items = append(items, *it)
			delete(s.adopted, name)
		}
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Name, b.Name) })
	return items
}

// Ready says that this process can serve. With a predecessor it waits until that says "yours", or dies; it
// returns nil when this process serves. What the predecessor knew only then is [Service.Final]. After an
// error the predecessor serves, and the program should end.
func (s *Service) Ready(ctx context.Context) error {
	s.mu.Lock()
	if s.ready {
		s.mu.Unlock()
		return errors.New("handoff: Ready was called before")
	}
	if s.takeover == nil && s.reason != "" { // with one, it is told so
		s.mu.Unlock()
		return errors.New("handoff: ready: the service was " + string(s.reason))
	}
	s.ready = true
	unclaimed := slices.Sorted(maps.Keys(s.adopted)) // closed here; the predecessor finishes with them
	for _, name := range unclaimed {
		_ = s.adopted[name].Close()
		delete(s.adopted, name)
	}
	s.mu.Unlock()
	for _, name := range unclaimed {
		s.tell(Event{Kind: EventUnclaimed, Name: name})
	}
	s.leaveGiven()
	var lost error
	if s.takeover != nil {
		if err := s.takeover.Ready(ctx); err != nil {
			s.arrivals.end(ctx)
			s.release()
			_ = s.first.Close()
			return err
		}
		lost = s.takeover.lostState()
	}
	s.open()
	if s.takeover != nil {
		s.awaitAccept(ctx)
		s.takeover.Serving(unclaimed...)
		s.beginArrivals()
	} else {
		s.manager.serves()
	}
	s.tell(Event{Kind: EventServing, Err: lost})
	if s.takeover != nil {
		s.background.Go(func() { // after that event: the predecessor may be quick to let go
			if s.takeover.Wait(s.ctx) == nil {
				announce(s.first)
				s.manager.serves()
				s.tell(Event{Kind: EventSettled, PID: s.takeover.PID()})
			}
		})
	}
	s.serveControl()
	return nil
}

// beginArrivals takes connections that the predecessor passes on, for the listeners that are served.
func (s *Service) beginArrivals() {
	if s.arrivals == nil {
		return
	}
	var all []*listener
	for _, k := range s.all() {
		// One that is served in another way, or by nobody, could not go on with what the predecessor's server began.
		if l := k.listener; l != nil && l.plain.Load() && !l.isReleased() {
			all = append(all, l)
		}
	}
	s.arrivals.begin(all)
}

// endArrivals takes no more connections of the predecessor's. What is on its way comes to its end first, unless the
// predecessor hangs: nobody will accept it then.
func (s *Service) endArrivals(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Deadlines.withDefaults().Answer)
	defer cancel()
	s.arrivals.end(ctx)
}

// Final returns what the predecessor's Options.Final returned, when Ready has; nothing without a predecessor.
// The items come once, and the caller closes them. [ErrStateLost] if the predecessor died before all of it had
// come: the items that had come are there, and no state. This process serves all the same.
func (s *Service) Final() (Final, error) {
	if s.takeover == nil {
		return Final{}, nil
	}
	return s.takeover.Final()
}

// Generation counts the processes of the service: 1 is one that began afresh.
func (s *Service) Generation() uint64 { return s.generation }

// open lets everything accept and read.
func (s *Service) open() {
	for _, k := range s.all() {
		k.resume()
	}
}

// awaitAccept waits until somebody accepts on, or reads from, every socket: that is what it means to
// serve. A program that does not do so for a second has its reasons.
func (s *Service) awaitAccept(ctx context.Context) {
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for _, k := range s.all() {
		select {
		case <-k.waiting():
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// all returns the sockets in their order.
func (s *Service) all() []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	sockets := make([]*socket, 0, len(s.order))
	for _, name := range s.order {
		sockets = append(sockets, s.sockets[name])
	}
	return sockets
}

// beginHandoff keeps all others out until done, which is told how it ended.
func (s *Service) beginHandoff() (done func(error), ok bool) {
	if !s.taking.CompareAndSwap(false, true) {
		return nil, false
	}
	s.handing.Lock() // Forget and Stop have it for a moment, and keep nobody out
	return func(err error) {
		s.manager.reloaded(err, func() {
			s.handing.Unlock()
			s.taking.Store(false)
		})
	}, true
}

// handOver offers the service to the process at the other end of c, which is peer, or a child of this process that has
// not said anything yet, if that is nil. It takes c and peer over.
func (s *Service) handOver(ctx context.Context, c *scm.Conn, peer *credentials.Sender) (err error) {
	done, ok := s.beginHandoff()
	if !ok {
		return s.refuse(ctx, c, peer, errors.New("another successor is taking over"))
	}
	defer func() { done(err) }()
	if why := s.Reason(); why != "" {
		return s.refuse(ctx, c, peer, errors.New("the service was "+string(why)))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.giveUp = cancel
	told := s.told
	s.mu.Unlock()
	if told {
		return s.refuse(ctx, c, peer, errors.New("the service was "+string(Told)))
	}
	if peer == nil {
		s.manager.reloads()
	}
	s.tell(Event{Kind: EventOffering})
	m, items, err := s.items()
	if err != nil {
		return s.refuse(ctx, c, peer, err)
	}
	var paused time.Time
	var dropped uint32
	err = Offer(ctx, c, Offering{
		Name: s.options.Name, Generation: s.generation, Items: items,
		Policy: s.options.Policy, Deadlines: s.options.Deadlines, peer: peer, letGo: s.manager.letGo,
		admit:     func(peer *credentials.Sender) error { return s.admit(ctx, peer) },
		Unclaimed: s.leaveWith,
		Progress: func(n, total int) {
			s.tell(Event{Kind: EventItems, Count: n, Total: total})
		},
		Pause: func(ctx context.Context) (Final, error) {
			paused, dropped = time.Now(), s.dropped()
			for _, k := range s.all() {
				if err := k.pause(ctx); err != nil {
					return Final{}, err
				}
			}
			// On probation this process must not answer at the path: who comes now is the successor's.
			if s.control != nil {
				if err := s.control.ln.pause(ctx); err != nil {
					return Final{}, err
				}
			}
			s.tell(Event{Kind: EventPaused, Took: time.Since(paused)})
			if s.options.Final == nil {
				return Final{}, nil
			}
			return s.options.Final(ctx)
		},
		Resume: func() {
			for _, k := range s.all() {
				k.resume()
			}
			if s.control != nil {
				s.control.ln.relisten()
				s.control.ln.resume()
			}
		},
	})
	switch {
	case err == nil:
		took := time.Since(paused)
		dropped = s.dropped() - dropped           // modulo 2^32
		s.endArrivals(context.WithoutCancel(ctx)) // which Stop may have ended meanwhile
		s.release()
		s.tell(Event{Kind: EventHanded, Took: took, Dropped: int(dropped)})
		m.handed()
		if s.initial != nil {
			s.initial.follow()
		}
		s.mu.Lock()
		s.mover = m
		s.mu.Unlock()
		s.stop(HandedOver)
		return nil
	case errors.Is(err, ErrTookBack):
		s.tell(Event{Kind: EventTookBack, Err: err})
	default:
		s.tell(Event{Kind: EventKept, Err: err})
	}
	m.close()
	return err
}

// dropped returns how many datagrams the kernel has dropped for want of room, of all packet sockets together. It
// counts modulo 2^32.
func (s *Service) dropped() (n uint32) {
	for _, k := range s.all() {
		if k.packet != nil {
			d, _ := k.packet.base().dropped() // Linux alone can tell
			n += d
		}
	}
	return n
}

// refuse tells a successor why it cannot have the service.
func (s *Service) refuse(ctx context.Context, c *scm.Conn, peer *credentials.Sender, why error) error {
	err := refuse(ctx, c, Offering{
		Name: s.options.Name, Generation: s.generation, Policy: s.options.Policy, Deadlines: s.options.Deadlines, peer: peer,
	}, why)
	s.tell(Event{Kind: EventKept, Err: err})
	return err
}

// items is everything that a successor gets. m is to be closed.
func (s *Service) items() (m *mover, items []Item, err error) {
	if s.control != nil {
		items = s.control.items(s.manager.environ())
	}
	open := 0
	for _, k := range s.all() {
		items = append(items, k.item())
		if k.listener != nil {
			open += k.listener.count()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.servers) > 0 && !s.options.CloseIdle {
		if m, err = newMover(s.options.Deadlines.withDefaults().Answer); err != nil {
			return nil, nil, err
		}
		items = append(items, m.item(open))
	}
	switch {
	case s.initial != nil:
		items = append(items, Item{Name: initItem, Kind: Connection, Conn: s.initial.theirs})
	case s.first != nil:
		items = append(items, Item{Name: initItem, Kind: Connection, Conn: s.first})
	}
	for _, name := range slices.Sorted(maps.Keys(s.kept)) {
		items = append(items, s.kept[name])
	}
	return m, items, nil
}

// stop ends the service in this process, for a reason.
func (s *Service) stop(why Reason) {
	if why == Told {
		s.manager.stops()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != "" {
		return
	}
	s.reason = why
	if s.control != nil {
		s.control.close(why == Told && s.ownsForGood())
	}
	close(s.stopping)
}

// ownsForGood reports whether nobody else has, or can take back, what this process has: then it is the one to remove
// the paths.
func (s *Service) ownsForGood() bool { return s.takeover == nil || s.takeover.settled() }

// Stopping is closed when the service is over for this process: call [Service.Drain] then. Reason says
// why. A successor that is still on probation is no reason: should it fail, this process serves on.
func (s *Service) Stopping() <-chan struct{} { return s.stopping }

// Reason says why the service is stopping, "" as long as it is not.
func (s *Service) Reason() Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// Stop tells the service to stop, as a signal does. Nobody follows: a handoff that is under way is given
// up, unless it is committed, and a predecessor that could take back is told not to.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.told = true // whoever begins a handoff now gives it up
	giveUp := s.giveUp
	s.mu.Unlock()
	if giveUp != nil {
		giveUp()
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	if s.Reason() != "" {
		return nil // the handoff was committed
	}
	if s.takeover != nil && !s.takeover.owns() {
		s.takeover.Abort(errors.New("it was told to stop"))
	}
	if s.takeover != nil && s.takeover.owns() {
		if err := s.takeover.Release(ctx); err != nil {
			s.mu.Lock()
			s.told = false
			s.mu.Unlock()
			return err
		}
		s.manager.serves()
	}
	s.endArrivals(ctx)
	s.tell(Event{Kind: EventStop})
	s.stop(Told)
	return nil
}

// catchSignals has signals wait from now on, before anybody hears of this process, whom they would end; watch reacts
// to them.
func (s *Service) catchSignals() (watch func()) {
	all := append(append([]os.Signal(nil), s.options.UpgradeSignals...), s.options.StopSignals...)
	if len(all) == 0 {
		return func() {}
	}
	signals := make(chan os.Signal, 4)
	ossignal.Notify(signals, all...)
	return func() {
		s.background.Go(func() {
			defer ossignal.Stop(signals)
			for {
				select {
				case got := <-signals:
					s.react(got)
				case <-s.ctx.Done():
					return
				}
			}
		})
	}
}

func (s *Service) react(got os.Signal) {
	if s.initial != nil && s.Reason() == HandedOver {
		s.initial.forward(got)
		return
	}
	for _, up := range s.options.UpgradeSignals {
		if got == up {
			s.background.Go(func() { _ = s.Upgrade(s.ctx) }) // what happens is told as events
			return
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.options.Deadlines.withDefaults().Answer)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		s.tell(Event{Kind: EventStop, Err: err})
		s.stop(Told) // a predecessor that does not answer must not keep us
		return
	}
	if s.initial != nil && s.Reason() == HandedOver {
		s.initial.forward(got) // it came between the commit and the end of probation
	}
}

// leaveWith remembers the sockets that the successor does not want: this process finishes with them.
func (s *Service) leaveWith(names []string) {
	for _, name := range names {
		s.mu.Lock()
		k := s.sockets[name]
		if k != nil {
			s.left[name] = true
		}
		s.mu.Unlock()
		if k != nil {
			s.tell(Event{Kind: EventUnclaimed, Name: name})
		}
	}
}

// isLeft reports whether this process is the last owner of a socket, although it has a successor.
func (s *Service) isLeft(k *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left[k.name]
}

// release closes this process's copies of everything that is not its own alone.
func (s *Service) release() {
	for _, k := range s.all() {
		if !s.isLeft(k) {
			k.release()
		}
	}
	if s.control != nil {
		s.control.close(false)
		s.control.unlock()
	}
}

var defaultStopSignals = []os.Signal{syscall.SIGTERM, os.Interrupt}
