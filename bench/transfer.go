package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/handoff"
	"github.com/fdkit/fdkit/scm"
)

// Many sockets move from one process to another: in Go through handoff.Offer and Take, in C through bare messages.

// A Transfer is what was seen of one contender with one number of sockets.
type Transfer struct {
	What      string `json:"what"` // connections or listeners
	Count     int    `json:"count"`
	Contender string `json:"contender"`
	Warm      bool   `json:"warm"`  // the receiver's descriptor table was large enough before
	Owned     Spread `json:"owned"` // ns until all had arrived and were acknowledged
	First     Spread `json:"first"` // ns until the first was served
	Last      Spread `json:"last"`
	Ratio     Spread `json:"ratio"` // of Owned, to C of the same round that was as warm
	LastRatio Spread `json:"last_ratio"`
}

const (
	connections = "connections"
	listeners   = "listeners"
)

// transferCounts are how many sockets move, transferRounds how often at most.
var transferCounts = []int{1, 100, 1000, 10000, 15000}

const transferRounds = 10

// A mover is a program that is both sides: a predecessor, which has the sockets, and successors.
type mover struct {
	name      string
	hand      func(what string, count int, path string) (*exec.Cmd, error)
	successor func(what string, grow int, path string) (*exec.Cmd, error)
}

// movers, of which the first is the base of the others.
var movers = []mover{
	{"C, plain", func(what string, count int, path string) (*exec.Cmd, error) {
		program, err := side()
		return exec.Command(program, "hand", kindInC(what), fmt.Sprint(count), path), err
	}, func(what string, grow int, path string) (*exec.Cmd, error) {
		program, err := side()
		return exec.Command(program, "receive", kindInC(what), fmt.Sprint(grow), path), err
	}},
	{"fdkit handoff", func(what string, count int, path string) (*exec.Cmd, error) {
		return job{"hand", what + " " + path, count}.command()
	}, func(_ string, grow int, path string) (*exec.Cmd, error) {
		return job{"take", path, grow}.command()
	}},
}

func kindInC(what string) string {
	if what == listeners {
		return "1"
	}
	return "0"
}

// A predecessor is a process that has sockets and passes them on when it is told.
type predecessor struct {
	mover
	what    string
	path    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	clients *exec.Cmd
}

func startPredecessor(m mover, what string, count int, path string) (p *predecessor, err error) {
	p = &predecessor{mover: m, what: what, path: path}
	if p.cmd, err = m.hand(what, count, path); err != nil {
		return nil, err
	}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var port int
	if _, err := fmt.Fscan(p.out, &port); err != nil {
		p.close()
		return nil, errors.WithMessage(err, "waiting for the predecessor")
	}
	if what == connections {
		if p.clients, err = (job{"clients", fmt.Sprint(port), count}).command(); err == nil {
			p.clients.Stderr = os.Stderr
			err = p.clients.Start()
		}
	}
	if err != nil {
		p.clients = nil
	} else {
		var ready string
		_, err = fmt.Fscan(p.out, &ready)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// pass has the first count sockets passed on to a new process, and returns how long that took.
func (p *predecessor) pass(count int, warm bool) (owned, first, last time.Duration, err error) {
	grow := 0
	if warm {
		grow = count
	}
	cmd, err := p.successor(p.what, grow, p.path)
	if err != nil {
		return 0, 0, 0, err
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, 0, err
	}
	if _, err := fmt.Fprintln(p.in, count); err != nil {
		return 0, 0, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, 0, err
	}
	_, err = fmt.Fscan(out, &owned, &first, &last)
	if err := cmp.Or(cmd.Wait(), err); err != nil {
		return 0, 0, 0, errors.WithMessage(err, "waiting for the successor")
	}
	var begin time.Duration
	if _, err = fmt.Fscan(p.out, &begin); err != nil {
		return 0, 0, 0, errors.WithMessage(err, "waiting for the predecessor")
	}
	return owned - begin, first - begin, last - begin, nil
}

func (p *predecessor) close() {
	_ = p.in.Close()
	if p.clients != nil {
		_ = p.clients.Process.Kill()
		_ = p.clients.Wait()
	}
	_, _ = io.Copy(io.Discard, p.out)
	_ = p.cmd.Wait()
}

// transfers measures what of all counts up to most, in that many rounds.
func transfers(what string, counts []int, rounds int) (all []Transfer, err error) {
	most := counts[len(counts)-1]
	folder, err := os.MkdirTemp("", "fdkit-bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	var ps []*predecessor
	defer func() {
		for _, p := range ps {
			p.close()
		}
	}()
	for i, m := range movers {
		p, err := startPredecessor(m, what, most, filepath.Join(folder, fmt.Sprint(i)))
		if err != nil {
			return nil, errors.WithMessage(err, m.name)
		}
		ps = append(ps, p)
	}
	for _, count := range counts {
		for _, warm := range []bool{false, true} {
			values := make([][5][]float64, len(ps))
			for range rounds {
				var base [3]time.Duration
				for i, p := range ps {
					owned, first, last, err := p.pass(count, warm)
					if err != nil {
						return nil, errors.WithMessagef(err, "%s, %d %s", movers[i].name, count, what)
					}
					if i == 0 {
						base = [3]time.Duration{owned, first, last}
					}
					v := &values[i]
					for j, x := range []float64{float64(owned), float64(first), float64(last), float64(owned) / float64(base[0]), float64(last) / float64(base[2])} {
						v[j] = append(v[j], x)
					}
				}
			}
			for i, v := range values {
				all = append(all, Transfer{
					What: what, Count: count, Contender: movers[i].name, Warm: warm,
					Owned: spread(v[0]), First: spread(v[1]), Last: spread(v[2]), Ratio: spread(v[3]), LastRatio: spread(v[4]),
				})
			}
		}
	}
	return all, nil
}

func init() {
	roles["hand"] = func(j job) error {
		what, path, _ := strings.Cut(j.contender, " ")
		return hand(what, j.count, path)
	}
	roles["take"] = func(j job) error { return take(j.contender, j.count) }
	roles["clients"] = func(j job) error { return clients("127.1.0.0:"+j.contender, j.count) }
}

// hand is the process of a predecessor.
func hand(what string, count int, path string) error {
	ln, err := net.Listen("tcp", "127.1.0.0:0")
	if err != nil {
		return err
	}
	successors, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr().(*net.TCPAddr).Port)
	items := make([]handoff.Item, count)
	for i := range items {
		if what == connections {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			items[i] = handoff.Item{Name: "c", Kind: handoff.Connection, Conn: c.(*net.TCPConn)}
			continue
		}
		// An address of its own, or the search for a free port takes long.
		l, err := net.Listen("tcp", fmt.Sprintf("127.1.%d.%d:0", i>>8, i&255))
		if err != nil {
			return err
		}
		items[i] = handoff.Item{Name: fmt.Sprint(i), Kind: handoff.Listener, Conn: l.(*net.TCPListener)}
	}
	fmt.Println("ready")
	for {
		var n int
		if _, err := fmt.Scan(&n); err != nil {
			return nil // no more orders
		}
		if err := passOn(successors, items[:n]); err != nil {
			return err
		}
	}
}

func passOn(successors *net.UnixListener, items []handoff.Item) error {
	c, err := successors.AcceptUnix()
	if err != nil {
		return err
	}
	begin := monotonic()
	conn, err := scm.NewConn(c)
	if err != nil {
		return err
	}
	err = handoff.Offer(context.Background(), conn, handoff.Offering{
		Name: "bench", Items: items, Deadlines: handoff.Deadlines{Probation: time.Microsecond},
	})
	fmt.Println(begin)
	return err
}

// take is the process of a successor.
func take(path string, grow int) error {
	if grow > 0 {
		high, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, grow+64)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		_ = unix.Close(high)
	}
	u, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	c, err := scm.NewConn(u)
	if err != nil {
		return err
	}
	to, err := handoff.Take(context.Background(), c, handoff.Wish{Name: "bench"})
	if err != nil {
		return err
	}
	owned := monotonic()
	if err := to.Ready(context.Background()); err != nil {
		return err
	}
	to.Serving()
	var first int64
	for i := range to.Items {
		if err := serveOne(&to.Items[i]); err != nil {
			return errors.WithMessagef(err, "item %d", i)
		}
		if i == 0 {
			first = monotonic()
		}
	}
	last := monotonic()
	if err := to.Wait(context.Background()); err != nil {
		return err
	}
	fmt.Println(owned, first, last)
	return nil
}

// serveOne answers a connection, or makes a listener that accepts.
func serveOne(it *handoff.Item) error {
	if it.Kind == handoff.Listener {
		_, err := it.TakeListener()
		return err
	}
	c, err := it.TakeConn()
	if err != nil {
		return err
	}
	var p [1]byte
	if _, err := c.Read(p[:]); err != nil {
		return err
	}
	_, err = c.Write(p[:])
	return err
}

// clients are connections that ask again as soon as they are answered.
func clients(addr string, count int) error {
	failed := make(chan error)
	for range count {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		go func() {
			p := []byte("x")
			for {
				if _, err := c.Write(p); err != nil {
					failed <- err
				}
				if _, err := io.ReadFull(c, p); err != nil {
					failed <- err
				}
			}
		}()
	}
	if err := <-failed; !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		return err
	}
	return nil // the predecessor has ended
}

// monotonic is a time that two processes can compare.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// many writes the tables of transfers.
func (r *Report) many(p *page) {
	if len(r.Transfers) == 0 {
		return
	}
	p.line("### Many at once\n")
	p.line("Sockets move to another process: until all had arrived and were acknowledged (owned), until the first was served, and the last. A connection is served when its request is answered, a listener when it accepts. The descriptor table of the receiver is as a new process has it (cold), or was grown before (warm); C has no handshake, no names and no transaction.\n")
	rows := [][]string{{"what", "table", "contender", "owned", "first served", "last served", "owned × C", "last × C"}}
	for _, x := range r.Transfers {
		rows = append(rows, []string{
			fmt.Sprintf("%d %s", x.Count, x.What), temperature(x.Warm), x.Contender,
			millis(x.Owned), millis(x.First), millis(x.Last), times(x.Ratio), times(x.LastRatio),
		})
	}
	p.table(rows)
	const few, many = 1000, 10000
	rows = [][]string{{"what", "table", "contender", "each one more, until owned"}}
	for _, x := range r.Transfers {
		if y, ok := r.transfer(x.What, many, x.Contender, x.Warm); ok && x.Count == few {
			rows = append(rows, []string{x.What, temperature(x.Warm), x.Contender, nanos((y.Owned.Median - x.Owned.Median) / (many - few))})
		}
	}
	if len(rows) > 1 {
		p.table(rows)
	}
}

func (r *Report) transfer(what string, count int, contender string, warm bool) (Transfer, bool) {
	for _, x := range r.Transfers {
		if x.What == what && x.Count == count && x.Contender == contender && x.Warm == warm {
			return x, true
		}
	}
	return Transfer{}, false
}

func temperature(warm bool) string {
	if warm {
		return "warm"
	}
	return "cold"
}

func millis(s Spread) string { return fmt.Sprintf("%.3g ms", s.Median/1e6) }

func times(s Spread) string { return fmt.Sprintf("**%.2f** (%.2f–%.2f)", s.Median, s.Low, s.High) }
