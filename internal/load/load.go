// Package load is clients that ask an HTTP server as fast as they can, or at a fixed rate, and notice every
// request that is not answered as it should be. Programs that replace a server under load use it.
package load

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// requestTimeout makes a failure of what would otherwise be a very long wait.
const requestTimeout = 30 * time.Second

// Options say what asks, and what.
type Options struct {
	Addr  string
	Kinds []Kind // of the clients, one of each that is listed

	// Format is that of an answer's body, for package fmt: the generation and the pid of the process that
	// answers, and the path that was asked for.
	Format string

	// Interval is the time between the requests of a client that asks at a fixed rate.
	Interval time.Duration
}

// A Load is clients that ask one server until they are told to stop.
type Load struct {
	Begin   time.Time
	Took    time.Duration // from Begin to the end of the last request
	Clients []*Client

	Answered, Failed atomic.Int64 // for a look meanwhile

	options  Options
	stopping chan struct{}
	running  sync.WaitGroup
}

// Start starts the clients.
func Start(o Options) *Load {
	l := &Load{Begin: time.Now(), options: o, stopping: make(chan struct{})}
	for i, k := range o.Kinds {
		c := &Client{load: l, id: i, Kind: k, Served: map[Origin]int64{}}
		l.Clients = append(l.Clients, c)
		l.running.Go(c.run)
	}
	return l
}

// Interval is the time in which each client at a fixed rate asks once, 0 if there is none.
func (l *Load) Interval() time.Duration { return l.options.Interval }

// Stop lets each client finish its request. What the clients saw may be read afterwards.
func (l *Load) Stop() {
	close(l.stopping)
	l.running.Wait()
	l.Took = time.Since(l.Begin)
}

// Failures returns what went wrong, in order.
func (l *Load) Failures() (all []Failure) {
	for _, c := range l.Clients {
		all = append(all, c.Failures...)
	}
	slices.SortFunc(all, func(a, b Failure) int { return cmp.Compare(a.At, b.At) })
	return all
}

// Samples are the requests that were answered, client by client.
func (l *Load) Samples() iter.Seq[Sample] {
	return func(yield func(Sample) bool) {
		for _, c := range l.Clients {
			for _, s := range c.Samples {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// ByKind returns how many requests each kind of client had answered.
func (l *Load) ByKind() (n [kinds]int) {
	for _, c := range l.Clients {
		n[c.Kind] += len(c.Samples)
	}
	return n
}

// Reconnects returns how often a server ended a kept-alive connection in good order.
func (l *Load) Reconnects() (n int) {
	for _, c := range l.Clients {
		n += c.reconnects
	}
	return n
}

// Served returns how many answers came from each process.
func (l *Load) Served() map[Origin]int64 {
	all := map[Origin]int64{}
	for _, c := range l.Clients {
		for from, n := range c.Served {
			all[from] += n
		}
	}
	return all
}

// pause waits for d, and reports false if the load ended.
func (l *Load) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.stopping:
		return false
	}
}

// A Kind of client.
type Kind int

// The kinds.
const (
	New        Kind = iota // a new connection for each request
	KeepAlive              // one connection, request after request
	WithPauses             // one connection that is idle for a moment before each request
	NewAtRate              // a new connection for each request, at a fixed rate
	KeptAtRate             // one connection, at a fixed rate
	kinds
)

func (k Kind) String() string {
	return [...]string{"on new connections", "kept alive", "kept alive, with pauses", "on new connections, at a fixed rate",
		"kept alive, at a fixed rate"}[k]
}

// kept reports whether a connection serves several requests.
func (k Kind) kept() bool { return k != New && k != NewAtRate }

// A Client speaks HTTP/1.1 and never sends a request twice: http.Transport does, and would hide the
// losses that we are looking for. It does what a client must: it sends nothing on a connection after
// the server said "Connection: close" or closed it.
type Client struct {
	load *Load
	id   int

	conn *net.TCPConn
	raw  syscall.RawConn
	in   *bufio.Reader

	connected time.Duration // when conn was made, after the begin of the load
	last      int           // the pid that the last answer on conn came from, 0 before the first one

	requests   int
	reconnects int // the server ended a kept-alive connection in good order

	Kind     Kind
	Samples  []Sample
	Served   map[Origin]int64
	Failures []Failure
}

// A Sample is a request that was answered.
type Sample struct {
	Start time.Duration // after the begin of the load
	Took  uint32        // µs
	PID   int32         // of who answered
}

// End is when the answer was complete, after the begin of the load.
func (s Sample) End() time.Duration { return s.Start + s.Duration() }

// Duration is how long the answer took.
func (s Sample) Duration() time.Duration { return time.Duration(s.Took) * time.Microsecond }

// An Origin is the process that an answer says it comes from.
type Origin struct {
	Generation uint64
	PID        int
}

// A Failure is a request that was not answered as it should have been.
type Failure struct {
	At     time.Duration
	Client int
	Kind   Kind
	Err    error

	Connected time.Duration // when its connection was made, 0 if it could not be
	Last      int           // the pid that answered on it before, 0 if none did
}

func (f Failure) String() string {
	return fmt.Sprintf("%.3f s, client %d (%v): %v", f.At.Seconds(), f.Client, f.Kind, f.Err)
}

func (c *Client) run() {
	defer c.hangUp()
	due := time.Duration(0)
	if c.Kind == NewAtRate || c.Kind == KeptAtRate {
		due = rand.N(c.load.options.Interval) // not all at once
	}
	for {
		var idle time.Duration
		switch c.Kind {
		case WithPauses:
			idle = time.Millisecond + rand.N(9*time.Millisecond)
		case NewAtRate, KeptAtRate:
			idle = due - time.Since(c.load.Begin)
		}
		select {
		case <-c.load.stopping:
			return
		default:
		}
		if idle > 0 && !c.load.pause(idle) {
			return
		}
		start := time.Since(c.load.Begin)
		if c.Kind == NewAtRate || c.Kind == KeptAtRate {
			start = due // a request that is late has waited
			due += c.load.options.Interval
		}
		if err := c.request(start); err != nil {
			f := Failure{At: time.Since(c.load.Begin), Client: c.id, Kind: c.Kind, Err: err}
			if c.conn != nil {
				f.Connected, f.Last = c.connected, c.last
			}
			c.hangUp()
			c.Failures = append(c.Failures, f)
			c.load.Failed.Add(1)
			c.load.pause(10 * time.Millisecond) // a server that is gone refuses very quickly
		}
	}
}

// request makes one request, which was to start then, and counts it if it is answered.
func (c *Client) request(start time.Duration) error {
	if c.conn != nil {
		err := checkIdle(c.raw)
		if errors.Is(err, io.EOF) {
			c.hangUp()
			c.reconnects++
		} else if err != nil {
			return errors.WithMessage(err, "before the request")
		}
	}
	c.requests++
	path := fmt.Sprintf("/%d/%d", c.id, c.requests)
	from, more, err := c.ask(path)
	if err != nil {
		return err
	}
	took := time.Since(c.load.Begin) - start
	c.Samples = append(c.Samples, Sample{start, uint32(took.Microseconds()), int32(from.PID)})
	c.last = from.PID
	c.Served[from]++
	c.load.Answered.Add(1)
	if more {
		return nil
	}
	// The server closes first, in good order; it also keeps the TIME_WAIT on its side.
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.WithMessage(unexpected(err), "after the last answer")
	}
	c.hangUp()
	if c.Kind.kept() {
		c.reconnects++
	}
	return nil
}

// ask sends a request and reads the answer to its end. It reports whether another request may
// follow on the connection.
func (c *Client) ask(path string) (from Origin, more bool, err error) {
	if c.conn == nil {
		if err := c.connect(); err != nil {
			return from, false, err
		}
	}
	_ = c.conn.SetDeadline(time.Now().Add(requestTimeout))
	request := "GET " + path + " HTTP/1.1\r\nHost: fdpass\r\n"
	if !c.Kind.kept() {
		request += "Connection: close\r\n"
	}
	if _, err := io.WriteString(c.conn, request+"\r\n"); err != nil {
		return from, false, err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return from, false, errors.WithMessage(err, "waiting for the answer")
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil {
		return from, false, errors.WithMessage(err, "in the answer")
	}
	var echo string
	_, err = fmt.Sscanf(string(body), c.load.options.Format, &from.Generation, &from.PID, &echo)
	if err != nil || r.StatusCode != http.StatusOK || echo != path {
		return from, false, errors.Errorf("wrong answer to %s: %s, %q", path, r.Status, body)
	}
	return from, !r.Close, nil
}

func (c *Client) connect() error {
	conn, err := net.DialTimeout("tcp", c.load.options.Addr, requestTimeout)
	if err != nil {
		return err
	}
	c.conn, c.in = conn.(*net.TCPConn), bufio.NewReader(conn)
	c.connected, c.last = time.Since(c.load.Begin), 0
	c.raw, err = c.conn.SyscallConn()
	return err
}

func (c *Client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// checkIdle looks, without waiting, at a connection on which nothing is expected. It returns io.EOF if
// the server has closed it, and another error if something else happened.
func checkIdle(raw syscall.RawConn) error {
	var n int
	var perr error
	var p [1]byte
	if err := raw.Control(func(fd uintptr) {
		for {
			n, _, perr = unix.Recvfrom(int(fd), p[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if perr != unix.EINTR {
				return
			}
		}
	}); err != nil {
		return err
	}
	switch {
	case perr == unix.EAGAIN:
		return nil
	case perr != nil:
		return os.NewSyscallError("recvfrom", perr)
	case n == 0:
		return io.EOF
	}
	return unexpected(nil)
}

// unexpected is the error of a read that should have found the end.
func unexpected(err error) error {
	if err == nil {
		err = errors.New("bytes that nobody asked for")
	}
	return err
}
