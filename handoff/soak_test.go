//go:build linux

package handoff

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

var (
	soakFor  = flag.Duration("soak", 2*time.Second, "how long TestSoak goes on; more than minutes needs -timeout 0 too, and -v shows how it goes")
	soakSeed = flag.Uint64("soak.seed", 0, "the seed of TestSoak; 0 is a new one")
	soakRate = flag.Int("soak.rate", 50, "the datagrams a second of TestSoak")
)

// The deadlines of the soak's service, and how long one of its processes is stopped: longer than the other
// waits for it, whatever for. The kernel's queue has room for the datagrams of that time at the default rate.
var soakDeadlines = Deadlines{
	Hello: 5 * time.Second, Offer: 5 * time.Second, Rehearse: 5 * time.Second, Commit: 5 * time.Second,
	Answer: 2 * time.Second, MaxPause: 5 * time.Second, Probation: 200 * time.Millisecond,
}

const stopFor = 8 * time.Second

// A blow is what the soak does to a process: at a point that this passes, or at any moment.
type blow struct {
	Do, Role, Step, Before string
	Only, Except           int // pids
}

// awaitStrikes is a process's part of the soak: it tells of each point that it passes, and strikes where the
// file says so. It ends when the test does.
func awaitStrikes(file string, tell func(line)) error {
	limit := unix.Rlimit{Cur: 1024, Max: 1024}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	tell(line{Event: "born"})
	probe = func(role string, at step, before string) {
		tell(line{Event: "at", Name: role, Addr: at.String(), State: before, Time: time.Now().UnixNano()})
		b, err := os.ReadFile(file)
		if err != nil {
			return
		}
		var what blow
		if json.Unmarshal(b, &what) != nil || role != what.Role || at.String() != what.Step || before != what.Before ||
			what.Only != 0 && what.Only != os.Getpid() || what.Except == os.Getpid() || os.Remove(file) != nil {
			return
		}
		tell(line{Event: "struck"})
		strike(what.Do)
	}
	return nil
}

// serveEcho answers each datagram with itself and the pid.
func serveEcho(svc *Service, addr string) error {
	packets, err := svc.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	// Twice the default; the system's limit, for an ordinary user.
	_ = packets.(interface{ SetReadBuffer(int) error }).SetReadBuffer(1 << 20)
	go func() {
		p := make([]byte, 100)
		for {
			n, from, err := packets.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(binary.BigEndian.AppendUint32(p[:n], uint32(os.Getpid())), from)
		}
	}()
	return nil
}

// packets is a client that sends numbered datagrams at a rate and accounts for each.
type packets struct {
	conn    net.Conn
	stop    chan struct{}
	working sync.WaitGroup

	mu        sync.Mutex
	sent      uint32
	waiting   map[uint32]bool
	last      uint32 // the highest that was answered, and one
	refused   int    // not sent: nobody has the socket
	answered  int
	unwelcome []string // answers to what was not asked
}

func startPackets(t *testing.T, addr string, rate int) *packets {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.UDPConn).SetReadBuffer(1 << 20)
	p := &packets{conn: conn, stop: make(chan struct{}), waiting: map[uint32]bool{}}
	p.working.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n, start := 0, time.Now(); ; {
			select {
			case <-tick.C:
			case <-p.stop:
				return
			}
			for ; n < int(time.Since(start)*time.Duration(rate)/time.Second); n++ {
				p.send()
			}
		}
	})
	p.working.Go(func() {
		b := make([]byte, 100)
		for {
			n, err := conn.Read(b)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
			case err != nil:
				return
			default:
				p.receive(b[:n])
			}
		}
	})
	return p
}

func (p *packets) send() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.conn.Write(binary.BigEndian.AppendUint32(nil, p.sent)); err != nil {
		p.refused++ // of an earlier one; this was not sent
		return
	}
	p.waiting[p.sent] = true
	p.sent++
}

func (p *packets) receive(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b) != 8 {
		p.unwelcome = append(p.unwelcome, fmt.Sprintf("%x", b))
		return
	}
	n := binary.BigEndian.Uint32(b)
	if !p.waiting[n] {
		p.unwelcome = append(p.unwelcome, fmt.Sprintf("datagram %d of %d, by pid %d", n, p.sent, binary.BigEndian.Uint32(b[4:])))
		return
	}
	delete(p.waiting, n)
	p.answered++
	p.last = max(p.last, n+1)
}

// account waits until everything that was sent up to now is answered or lost. The socket's queue is in order.
func (p *packets) account(t *testing.T, mayLose int) (lost, refused int, unwelcome []string) {
	t.Helper()
	p.mu.Lock()
	mark := p.sent
	p.mu.Unlock()
	testutil.Eventually(t, "a datagram is answered", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.last > mark
	})
	older := func() (n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range p.waiting {
			if i < mark {
				n++
			}
		}
		return n
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) { // one that was read before may be answered after
		lost, took := older(), time.Since(begin)
		if lost == 0 || lost <= mayLose && took > 500*time.Millisecond || took > patient {
			break
		}
	}
	lost = older()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.waiting {
		if i < mark {
			delete(p.waiting, i)
		}
	}
	refused, unwelcome = p.refused, p.unwelcome
	p.refused, p.unwelcome = 0, nil
	return lost, refused, unwelcome
}

func (p *packets) end() {
	close(p.stop)
	_ = p.conn.Close()
	p.working.Wait()
}

// kernelDrops returns how many datagrams for a port found the queue full.
func kernelDrops(t *testing.T, addr string) (n int) {
	t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(table)) {
		f := strings.Fields(l)
		if len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", number)) {
			d, _ := strconv.Atoi(f[len(f)-1])
			n += d
		}
	}
	return n
}

// A generation is a process of the soak's service. What it has said is of this round.
type generation struct {
	pid   int
	pidfd int
	last  *point // the last that it passed
	said  map[string]int
	open  bool   // a successor is here
	final string // how that ended
	dead  bool

	diedAt, overAt time.Time // as far as is known; as a predecessor
}

// serves reports whether it does, in its own opinion.
func (g *generation) serves() bool {
	return g.said[string(EventSettled)] > 0 || g.said[string(EventFresh)] > 0 && g.said["ready"] > 0
}

// snapshot is what is known of it now; more may be heard at any moment. It is called under the soak's lock.
func (g *generation) snapshot() *generation {
	if g == nil {
		return nil
	}
	c := *g
	c.said = maps.Clone(g.said)
	return &c
}

// A soak is a service, its clients, and what has become of both.
type soak struct {
	t         *testing.T
	c         serviceConfig
	random    *rand.Rand
	program   *exec.Cmd
	leash     *os.File // what the processes read to its end
	stdin     *os.File
	stdout    *os.File
	read      *os.File
	complains *os.File
	reading   sync.WaitGroup
	points    map[string][]point // by role

	mu      sync.Mutex
	news    chan struct{}
	known   map[int]*generation
	log     []string // of the round
	ends    []string // drains that had to cut
	synced  int
	syncing int

	byPath  bool // the processes are this one's children
	live    *generation
	kinds   [3]*clients
	turns   []*atomic.Int64
	packets *packets
	drops   int

	began, told time.Time
	sum         tally
}

// A tally is what the soak has done and seen.
type tally struct {
	rounds, upgrades, kept, tookBack, fresh      int
	kills, stops, fills, missed                  int
	requests, refused, cut                       int // requests: answered
	datagrams, lost, unsent                      int
	refusedFresh, cutFresh, lostFresh, cutByKill int // of those, allowed
	lostByKill, unsentFresh, failures            int
}

func (s *soak) errorf(format string, args ...any) {
	s.t.Helper()
	s.sum.failures++
	s.mu.Lock()
	log := strings.Join(s.log, "\n\t")
	s.mu.Unlock()
	s.t.Errorf("%s round %d: %s\n\t%s", time.Now().Format("15:04:05.000"), s.sum.rounds, fmt.Sprintf(format, args...), log)
	if s.sum.failures > 20 {
		s.t.Fatal("that is enough")
	}
}

func startSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	dir := testutil.ShortDir(t)
	s := &soak{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), program: aService.Command(t), points: map[string][]point{},
		news: make(chan struct{}, 1), known: map[int]*generation{}, began: time.Now(), told: time.Now(),
	}
	addr := testutil.FreeAddress(t)
	s.c = serviceConfig{
		Socket: filepath.Join(dir, "control"), Unix: filepath.Join(dir, "web"), TCP: addr, Echo: addr,
		Strikes: filepath.Join(dir, "blow"), Deadlines: soakDeadlines,
	}
	var err error
	if s.stdin, s.leash, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if s.read, s.stdout, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if s.complains, err = os.OpenFile(filepath.Join(t.TempDir(), "complaints"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	// Whose parent has died is this process's child: nothing that the service leaves behind can hide.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	s.reading.Go(func() {
		lines := bufio.NewScanner(s.read)
		for lines.Scan() {
			s.hear(lines.Bytes())
		}
	})
	t.Cleanup(s.close)
	return s
}

// close ends everything, also after a failure.
func (s *soak) close() {
	_ = s.leash.Close() // the processes end by it
	_ = s.stdin.Close()
	for _, g := range s.all() {
		_ = unix.PidfdSendSignal(g.pidfd, unix.SIGKILL, nil, 0)
	}
	s.until("all are dead", time.Minute, func() bool { return s.reap() == 0 })
	_ = s.stdout.Close()
	s.reading.Wait()
	_ = s.read.Close()
	_ = s.complains.Close()
}

// hear handles a line of any process.
func (s *soak) hear(b []byte) {
	var l line
	if json.Unmarshal(b, &l) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer notify(s.news)
	if l.Event == "sync" {
		s.synced = l.PID
		return
	}
	s.log = append(s.log, fmt.Sprintf("%s %d %s %s %s %s %s", time.Now().Format("05.000"), l.PID, l.Event, l.Name, l.Addr, l.State, l.Error))
	g := s.known[l.PID]
	if g == nil {
		pidfd, err := unix.PidfdOpen(l.PID, 0)
		g = &generation{pid: l.PID, pidfd: pidfd, said: map[string]int{}, dead: err != nil}
		s.known[l.PID] = g
	}
	g.said[l.Event]++
	switch l.Event {
	case "at":
		g.last = &point{role: l.Name, at: step(slices.Index(stepNames[:], l.Addr)), before: l.State}
		if l.Name == "predecessor" && g.last.at == stepOver && g.overAt.IsZero() {
			g.overAt = time.Unix(0, l.Time)
		}
	case string(EventOffering):
		g.open = true
	case string(EventKept), string(EventTookBack), string(EventHanded):
		g.open, g.final = false, l.Event
	case "end":
		if l.Error != "<nil>" {
			s.ends = append(s.ends, fmt.Sprintf("%d: %s", l.PID, l.Error))
		}
	}
}

// all returns the processes that are known.
func (s *soak) all() (all []*generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.known {
		all = append(all, g)
	}
	return all
}

// look finds out who is dead.
func (s *soak) look() {
	for _, g := range s.known {
		if !g.dead {
			poll := []unix.PollFd{{Fd: int32(g.pidfd), Events: unix.POLLIN}}
			n, _ := unix.Poll(poll, 0)
			if g.dead = n > 0; g.dead {
				g.diedAt = time.Now()
			}
		}
	}
}

// reap forgets the dead and returns how many processes are left, zombies too.
func (s *soak) reap() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	for pid, g := range s.known {
		if !g.dead {
			continue
		}
		_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil) // if its parent is dead, or we are
		if _, serr := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil && serr != nil {
			_ = unix.Close(g.pidfd)
			delete(s.known, pid)
		}
	}
	return len(s.known)
}

// locked is until under the lock.
func (s *soak) locked(what string, limit time.Duration, ok func() bool) bool {
	s.t.Helper()
	return s.until(what, limit, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.look()
		return ok()
	})
}

// until waits for something, and says so when it does not happen.
func (s *soak) until(what string, limit time.Duration, ok func() bool) bool {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond) // of a death nobody tells
	defer tick.Stop()
	for end := time.Now().Add(limit); !ok(); {
		if time.Now().After(end) {
			s.errorf("did not happen in %v: %s", limit, what)
			return false
		}
		select {
		case <-s.news:
		case <-tick.C:
		}
	}
	return true
}

// sync waits until everything that was said up to now is heard.
func (s *soak) sync() {
	s.syncing++
	if err := json.NewEncoder(s.stdout).Encode(line{Event: "sync", PID: s.syncing}); err != nil {
		s.t.Fatal(err)
	}
	s.locked("the pipe is read", time.Minute, func() bool { return s.synced == s.syncing })
}

// launch starts a process of the service.
func (s *soak) launch(c serviceConfig) *generation {
	s.t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(s.program.Path)
	cmd.Env = append(slices.Clone(s.program.Env), "SERVICE="+string(b))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.stdin, s.stdout, s.complains
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	pid := cmd.Process.Pid
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = cmd.Process.Release() // reap waits for it
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.known[pid]; g != nil { // it has been heard already
		_ = unix.Close(pidfd)
		return g
	}
	g := &generation{pid: pid, pidfd: pidfd, said: map[string]int{}}
	s.known[pid] = g
	return g
}

// begin forgets what was said.
func (s *soak) begin() {
	s.sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
	for _, g := range s.known {
		g.last, g.final, g.open = nil, "", false
		g.overAt = time.Time{}
		clear(g.said)
	}
}

// startLoad starts clients of all kinds.
func (s *soak) startLoad() {
	s.turns = nil
	// Without a pause for some hundred requests; the rest leaves the machine to others.
	full := func(turn *atomic.Int64) func() {
		left := 0
		return func() {
			turn.Add(1)
			if left--; left <= 0 {
				left = 1 + rand.N(300)
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
	think := func(turn *atomic.Int64) func() {
		return func() {
			turn.Add(1)
			time.Sleep(rand.N(200 * time.Millisecond))
		}
	}
	for i, kind := range []struct {
		count int
		keep  bool
		rest  func(*atomic.Int64) func()
	}{{1, false, full}, {1, true, full}, {3, true, think}} {
		all := &clients{stop: make(chan struct{})}
		s.kinds[i] = all
		for network, address := range map[string]string{"tcp": s.c.TCP, "unix": s.c.Unix} {
			for range kind.count {
				turn := new(atomic.Int64)
				s.turns = append(s.turns, turn)
				all.runWith(network, address, kind.keep, kind.rest(turn))
			}
		}
		s.t.Cleanup(all.end)
	}
	s.packets = startPackets(s.t, s.c.Echo, *soakRate)
	s.drops = kernelDrops(s.t, s.c.Echo)
}

func (s *soak) endLoad() {
	s.account(false, 0, 0)
	for _, k := range s.kinds {
		k.end()
	}
	s.packets.end()
}

// account waits until whatever has happened has reached the clients, and compares it with what may.
func (s *soak) account(anything bool, cutOK, lostOK int) {
	s.t.Helper()
	was := make([]int64, len(s.turns))
	for i, turn := range s.turns {
		was[i] = turn.Load()
	}
	s.until("every client has made two requests more", time.Minute, func() bool {
		for i, turn := range s.turns {
			if turn.Load() < was[i]+3 {
				return false
			}
		}
		return true
	})
	var refused, cut []string
	for _, k := range s.kinds {
		k.mu.Lock()
		s.sum.requests += k.answers
		refused, cut = append(refused, k.refused...), append(cut, k.cut...)
		k.answers, k.refused, k.cut = 0, nil, nil
		k.mu.Unlock()
	}
	if anything {
		lostOK = math.MaxInt
	}
	lost, unsent, unwelcome := s.packets.account(s.t, lostOK)
	drops := kernelDrops(s.t, s.c.Echo)
	s.packets.mu.Lock()
	s.sum.datagrams += s.packets.answered
	s.packets.answered = 0
	s.packets.mu.Unlock()
	s.sum.refused, s.sum.cut = s.sum.refused+len(refused), s.sum.cut+len(cut)
	s.sum.lost, s.sum.unsent = s.sum.lost+lost, s.sum.unsent+unsent
	switch {
	case anything:
		s.sum.refusedFresh, s.sum.cutFresh = s.sum.refusedFresh+len(refused), s.sum.cutFresh+len(cut)
		s.sum.lostFresh, s.sum.unsentFresh = s.sum.lostFresh+lost, s.sum.unsentFresh+unsent
	default:
		s.sum.cutByKill, s.sum.lostByKill = s.sum.cutByKill+len(cut), s.sum.lostByKill+lost
		if len(refused) > 0 {
			s.errorf("%d connections refused: %q", len(refused), refused[:min(len(refused), 5)])
		}
		if len(cut) > cutOK {
			s.errorf("%d requests not answered, %d could not be: %q", len(cut), cutOK, cut[:min(len(cut), 5)])
		}
		if lost > lostOK {
			s.errorf("%d datagrams lost, %d could be; %d found the queue full", lost, lostOK, drops-s.drops)
		}
		if unsent > 0 {
			s.errorf("%d datagrams refused", unsent)
		}
	}
	s.drops = drops
	if len(unwelcome) > 0 {
		s.errorf("answers to what was not asked: %q", unwelcome[:min(len(unwelcome), 5)])
	}
}

// successor starts one, and returns it unless the predecessor must do that first.
func (s *soak) successor(byChild bool, c serviceConfig) *generation {
	if !byChild {
		return s.launch(c)
	}
	_ = unix.PidfdSendSignal(s.live.pidfd, unix.SIGHUP, nil, 0)
	return nil
}

// born waits for a successor that the predecessor starts. There is none if it cannot, or is dead and has left none.
func (s *soak) born(before map[int]bool) (child *generation) {
	s.locked("a child is born", time.Minute, func() bool {
		for pid, g := range s.known {
			if !before[pid] {
				child = g
			}
		}
		return child != nil || s.live.final != "" && !s.live.open || s.live.dead && len(s.strangers()) == 0
	})
	return child
}

// strangers are children of this process that have not said anything yet. Package os tries, with a child that does
// nothing, what the kernel can; that is left when its parent is killed meanwhile.
func (s *soak) strangers() (all []int) {
	for pid := range children(s.t, os.Getpid()) {
		if s.known[pid] != nil {
			continue
		}
		if dead, _ := unix.Wait4(pid, nil, unix.WNOHANG, nil); dead != pid {
			all = append(all, pid)
		}
	}
	return all
}

// round is one upgrade and what befalls it.
func (s *soak) round(what, role string, moment bool) {
	s.sum.rounds++
	s.begin()
	p := s.live
	before := map[int]bool{}
	for _, g := range s.all() {
		before[g.pid] = true
	}
	byChild := s.random.IntN(2) == 0 && !s.byPath
	moves := false
	if what != "" && !moment {
		at := s.points[role][s.random.IntN(len(s.points[role]))]
		moves = at.at == stepOver && at.before != "" && at.before != "finish"
		b := blow{Do: what, Role: role, Step: at.at.String(), Before: at.before}
		if role == "predecessor" {
			b.Only = p.pid
		} else {
			b.Except = p.pid
		}
		s.say("strike: %s at %v, by child %v", what, at, byChild)
		text, _ := json.Marshal(b)
		if err := os.WriteFile(s.c.Strikes, text, 0o600); err != nil {
			s.t.Fatal(err)
		}
	} else {
		s.say("strike: %s %s at a moment, by child %v", what, role, byChild)
	}
	next := s.successor(byChild, s.c)
	var victim *generation
	if moment {
		if role == "successor" && next == nil {
			next = s.born(before)
		}
		if victim = p; role == "successor" {
			victim = next
		}
		time.Sleep(time.Duration(s.random.Int64N(int64(250 * time.Millisecond))))
		victim = s.hit(what, victim)
	}
	if next == nil {
		next = s.born(before)
	}
	s.decide(p, next, what)
	if what != "" && !moment {
		s.mu.Lock()
		serves := next != nil && next.serves()
		s.mu.Unlock()
		if victim = s.whoIsStruck(moves && serves); victim == nil {
			if os.Remove(s.c.Strikes) == nil {
				s.sum.missed++
			} else { // it has read that it is to be
				s.until("the one that is struck says so", time.Minute, func() bool { victim = s.whoIsStruck(false); return victim != nil })
			}
		}
		if what == "stop" && victim != nil { // perhaps when all was decided
			s.locked("it stops", time.Minute, func() bool { return s.stopped() != nil || victim.said["woken"] > 0 })
			s.wake()
		}
		if victim != nil && what == "kill" {
			s.locked("the killed one is dead", time.Minute, func() bool { return victim.dead })
		}
		s.decide(p, next, "")
	}
	if what == "fill" && victim != nil {
		s.locked("the table is empty again", time.Minute, func() bool { return victim.dead || victim.said["emptied"] > 0 })
	}
	s.sync()
	s.conclude(p, next, victim, what)
}

func (s *soak) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// hit strikes a process now. It returns nil if that had ended.
func (s *soak) hit(what string, g *generation) *generation {
	signal := unix.SIGKILL
	if what == "stop" {
		signal = unix.SIGSTOP
	}
	if g == nil || unix.PidfdSendSignal(g.pidfd, signal, nil, 0) != nil {
		s.sum.missed++
		return nil
	}
	s.say("hit %d: %s", g.pid, what)
	if what == "stop" {
		s.sync()
		time.Sleep(stopFor)
		_ = unix.PidfdSendSignal(g.pidfd, unix.SIGCONT, nil, 0)
	} else {
		s.locked("the killed one is dead", time.Minute, func() bool { return g.dead })
	}
	return g
}

// whoIsStruck returns the process that has struck itself; it may do so soon.
func (s *soak) whoIsStruck(soon bool) (struck *generation) {
	look := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, g := range s.known {
			if g.said["struck"] > 0 {
				struck = g
			}
		}
		return struck != nil
	}
	for end := time.Now().Add(time.Second); !look() && soon && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	return struck
}

// stopped returns the process that has stopped itself.
func (s *soak) stopped() *generation {
	for _, g := range s.known {
		if g.said["stopping"] > 0 {
			return g
		}
	}
	return nil
}

// wake lets the process that has stopped itself go on after a while.
func (s *soak) wake() {
	s.mu.Lock()
	g := s.stopped()
	s.mu.Unlock()
	if g == nil {
		return
	}
	testutil.AwaitStopped(s.t, g.pid)
	time.Sleep(stopFor)
	_ = unix.PidfdSendSignal(g.pidfd, unix.SIGCONT, nil, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(g.said, "stopping")
	g.said["woken"]++
}

// decide waits until the handoff is over for both. A process that has stopped itself goes on after a while.
func (s *soak) decide(p, next *generation, what string) {
	s.t.Helper()
	if what == "stop" {
		s.locked("a process stops", time.Minute, func() bool { return s.stopped() != nil || s.over(p, next) })
		s.wake()
	}
	s.locked("the handoff is decided", time.Minute, func() bool { return s.over(p, next) })
	s.sync()
	s.locked("the handoff is decided", time.Minute, func() bool { return s.over(p, next) })
}

func (s *soak) over(p, next *generation) bool {
	if next != nil && !next.dead && !next.serves() {
		return false
	}
	return p.dead || !p.open && (next == nil || next.dead || p.final == string(EventHanded))
}

// conclude finds out who serves now, and whether what was lost on the way could be.
func (s *soak) conclude(p, next, victim *generation, what string) {
	s.mu.Lock()
	old, fresh, struck := p.snapshot(), next.snapshot(), victim.snapshot()
	s.mu.Unlock()
	switch what {
	case "kill":
		s.sum.kills++
	case "stop":
		s.sum.stops++
	case "fill":
		s.sum.fills++
	}
	anything, cut, lost := false, 0, 0
	if victim != nil && what != "" {
		switch {
		case struck.last != nil:
			anything, cut = allowed(what, *struck.last, len(s.turns))
		case what == "kill" && victim == p:
			anything = true // it was alone with the sockets
		}
		if what == "kill" && victim == next && old.final == string(EventHanded) {
			anything = true // now it was
			if late := old.overAt.Sub(struck.diedAt); late > 100*time.Millisecond {
				s.errorf("the predecessor let go %v after the successor's death", late)
			}
		}
	}
	if old.final == string(EventTookBack) && next != nil && fresh.last != nil && fresh.last.at == stepCommit {
		cut = max(cut, len(s.turns)) // what it had accepted before the predecessor killed it
	}
	if cut > 0 {
		lost = 1 // it has one reader
	}
	switch old.final {
	case string(EventTookBack):
		s.sum.tookBack++
	case string(EventKept):
		s.sum.kept++
	}
	gone := next == nil || fresh.dead
	switch {
	case !gone && fresh.serves():
		if s.live = next; fresh.said[string(EventFresh)] == 0 {
			s.sum.upgrades++
		} else if !anything {
			s.errorf("the successor began afresh")
		}
	case !old.dead && old.final != string(EventHanded):
		if what == "" {
			s.errorf("no handoff, and nothing was in its way")
		}
	default:
		if !anything {
			s.errorf("nobody serves")
		}
		s.sum.fresh++
		s.live = s.launch(s.c)
		s.locked("it begins afresh", time.Minute, func() bool { return s.live.serves() || s.live.dead })
	}
	if s.live.dead {
		s.t.Fatalf("nobody can take over any more: %s", s.complaints())
	}
	mustServe(s.t, s.c, s.c.TCP, s.live.pid)
	s.account(anything, cut, lost)
	s.checkEnds()
	s.reap()
	if time.Since(s.told) > time.Minute {
		s.told = time.Now()
		s.t.Logf("%s after %v: %+v", time.Now().Format("15:04:05"), time.Since(s.began).Round(time.Second), s.sum)
	}
}

// checkEnds looks for drains that had to cut connections, and for processes that crashed.
func (s *soak) checkEnds() {
	s.mu.Lock()
	ends := s.ends
	s.ends = nil
	s.mu.Unlock()
	if len(ends) > 0 {
		s.errorf("a drain: %q", ends)
	}
	text := s.complaints()
	for _, bad := range []string{"panic", "fatal error", "DATA RACE"} {
		if strings.Contains(text, bad) {
			s.t.Fatalf("a process crashed: %s", text)
		}
	}
	_ = s.complains.Truncate(0)
}

func (s *soak) complaints() string {
	b, _ := io.ReadAll(io.NewSectionReader(s.complains, 0, 1<<20))
	return string(b)
}

// vitals are what must not grow.
type vitals struct {
	descriptors, goroutines, threads, kilobytes int

	open []string // what the descriptors are, for a failure
}

func (v vitals) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d threads, %d KiB", v.descriptors, v.goroutines, v.threads, v.kilobytes)
}

// vitalsOf asks a process without clients for them.
func (s *soak) vitalsOf(g *generation) (v vitals) {
	s.t.Helper()
	conn, err := net.Dial("unix", s.c.Unix)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	k := &talk{s.t, conn, bufio.NewReader(conn)}
	k.send(get("/goroutines"))
	answer, _ := k.answer()
	v.goroutines, _ = strconv.Atoi(answer)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.pid))
	if err != nil {
		s.t.Fatal(err)
	}
	v.descriptors = len(fds)
	for _, fd := range fds {
		what, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", g.pid, fd.Name()))
		v.open = append(v.open, fd.Name()+" "+what)
	}
	v.threads, v.kilobytes = procStatus(s.t, g.pid)
	return v
}

func procStatus(t *testing.T, pid int) (threads, kilobytes int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		switch f := strings.Fields(l); f[0] {
		case "Threads:":
			threads, _ = strconv.Atoi(f[1])
		case "VmRSS:":
			kilobytes, _ = strconv.Atoi(f[1])
		}
	}
	return threads, kilobytes
}

// serveAwhile upgrades twice, serves for a second, and returns what the generation and the test have when
// all is quiet. before is what they should have.
func (s *soak) serveAwhile(before *[2]vitals) (now [2]vitals) {
	s.t.Helper()
	s.startLoad()
	// Generations that this process starts inherit the same, whatever descriptors it has itself from its parent.
	s.byPath = true
	for range 2 {
		s.round("", "", false)
	}
	s.byPath = false
	time.Sleep(time.Second)
	s.endLoad()
	s.locked("the older generations have ended", time.Minute, func() bool {
		for _, g := range s.known {
			if g != s.live && !g.dead {
				return false
			}
		}
		return true
	})
	s.until("the dead are reaped", time.Minute, func() bool { return s.reap() == 1 })
	measure := func() [2]vitals {
		debug.FreeOSMemory()
		own := vitals{descriptors: testutil.Count(s.t), goroutines: runtime.NumGoroutine()}
		own.threads, own.kilobytes = procStatus(s.t, os.Getpid())
		return [2]vitals{s.vitalsOf(s.live), own}
	}
	same := func(a, b [2]vitals) bool {
		for i := range a {
			if a[i].descriptors != b[i].descriptors || a[i].goroutines != b[i].goroutines {
				return false
			}
		}
		return true
	}
	now = measure()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
		again := measure()
		if before == nil && same(now, again) || before != nil && same(*before, again) {
			return again
		}
		now = again
	}
	if before != nil {
		s.errorf("the generation and the test have %v, of which %q; they had %v, of which %q", now, now[0].open, *before, before[0].open)
	}
	return now
}

// pack is what may befall an upgrade, each as often as it is wanted.
func (s *soak) pack() (all []func()) {
	for range 2 {
		all = append(all, func() { s.round("", "", false) })
		for _, role := range []string{"predecessor", "successor"} {
			all = append(all,
				func() { s.round("kill", role, false) },
				func() { s.round("kill", role, true) },
				func() { s.round("fill", role, false) })
		}
	}
	role := []string{"predecessor", "successor"}[s.random.IntN(2)]
	moment := s.random.IntN(2) == 0
	all = append(all, func() { s.round("stop", role, moment) })
	s.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Upgrades, kills, stops and full descriptor tables, for as long as one likes, while clients ask and account for
// every answer: nothing is lost but what a killed process had accepted, and nothing grows.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("-soak %v -soak.seed %d, %d datagrams a second", *soakFor, seed, *soakRate)
	var all []point
	if !t.Run("points", func(t *testing.T) { all = append(points(t), movePoints(t)...) }) {
		return
	}
	descriptors, goroutines := testutil.Open(t), runtime.NumGoroutine()
	s := startSoak(t, seed)
	for _, p := range all {
		s.points[p.role] = append(s.points[p.role], p)
	}
	s.live = s.launch(s.c)
	s.locked("the service begins", time.Minute, func() bool { return s.live.serves() })
	first := s.serveAwhile(nil)
	s.startLoad()
	for end := time.Now().Add(*soakFor); time.Now().Before(end); {
		for _, round := range s.pack() {
			if round(); time.Now().After(end) {
				break
			}
		}
	}
	s.endLoad()
	last := s.serveAwhile(&first)
	took := time.Since(s.began).Round(time.Second)
	for i, who := range []string{"generation", "test"} {
		if grown := last[i].kilobytes - first[i].kilobytes; grown > 16<<10 {
			s.errorf("the %s has grown by %d KiB", who, grown)
		}
	}

	// Told to stop, it leaves nothing behind.
	_ = unix.PidfdSendSignal(s.live.pidfd, unix.SIGTERM, nil, 0)
	s.locked("it ends", time.Minute, func() bool { return s.live.dead })
	s.until("nobody is left", time.Minute, func() bool { return s.reap() == 0 })
	s.strangers()
	if left := children(t, os.Getpid()); len(left) > 0 {
		s.errorf("processes are left: %v", left)
	}
	files, err := os.ReadDir(filepath.Dir(s.c.Socket))
	if err != nil || len(files) != 1 || files[0].Name() != "control.lock" {
		s.errorf("files are left: %v, %v", files, err)
	}
	s.close()
	testutil.Eventually(t, "descriptors and goroutines are as before", func() bool {
		return len(testutil.Open(t)) == len(descriptors) && runtime.NumGoroutine() <= goroutines
	})
	s.report(took, first, last)
}

func (s *soak) report(took time.Duration, first, last [2]vitals) {
	n := s.sum
	s.t.Logf(`
  time                      %v
  rounds                    %d
  handed over               %d
  kept, taken back          %d, %d
  begun afresh              %d
  kills, stops, full tables %d, %d, %d; %d found nobody
  requests answered         %d
    refused                 %d, of which while nobody was there %d
    not answered            %d, of which with a killed process %d, while nobody was there %d
  datagrams answered        %d
    lost                    %d, of which with a killed process %d, while nobody was there %d
    not sent                %d, of which while nobody was there %d
  failures                  %d
  a generation              %v; at the beginning %v
  the test                  %v; at the beginning %v`,
		took, n.rounds, n.upgrades, n.kept, n.tookBack, n.fresh, n.kills, n.stops, n.fills, n.missed,
		n.requests, n.refused, n.refusedFresh, n.cut, n.cutByKill, n.cutFresh,
		n.datagrams, n.lost, n.lostByKill, n.lostFresh, n.unsent, n.unsentFresh, n.failures,
		last[0], first[0], last[1], first[1])
}
