package main

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
const requestTimeout = 5 * time.Second

// A load is clients that ask one server as fast as they can until they are told to stop.
type load struct {
	begin   time.Time
	took    time.Duration // from begin to the end of the last request
	clients []*client

	answered, failed atomic.Int64 // for a look meanwhile

	stopping chan struct{}
	running  sync.WaitGroup
}

// startLoad starts n clients, of all kinds.
func startLoad(addr string, n int) *load {
	l := &load{begin: time.Now(), stopping: make(chan struct{})}
	mix := [...]kind{newConnections, keepAlive, withPauses, withPauses}
	for i := range n {
		c := &client{load: l, id: i, kind: mix[i%len(mix)], addr: addr, served: map[origin]int64{}}
		l.clients = append(l.clients, c)
		l.running.Go(c.run)
	}
	return l
}

// stop lets each client finish its request. What the clients saw may be read afterwards.
func (l *load) stop() {
	close(l.stopping)
	l.running.Wait()
	l.took = time.Since(l.begin)
}

// failures returns what went wrong, in order.
func (l *load) failures() (all []failure) {
	for _, c := range l.clients {
		all = append(all, c.failures...)
	}
	slices.SortFunc(all, func(a, b failure) int { return cmp.Compare(a.at, b.at) })
	return all
}

// samples are the requests that were answered, client by client.
func (l *load) samples() iter.Seq[sample] {
	return func(yield func(sample) bool) {
		for _, c := range l.clients {
			for _, s := range c.samples {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// byKind returns how many requests each kind of client had answered.
func (l *load) byKind() (n [kinds]int) {
	for _, c := range l.clients {
		n[c.kind] += len(c.samples)
	}
	return n
}

func (l *load) reconnects() (n int) {
	for _, c := range l.clients {
		n += c.reconnects
	}
	return n
}

// served returns how many answers came from each process.
func (l *load) served() map[origin]int64 {
	all := map[origin]int64{}
	for _, c := range l.clients {
		for from, n := range c.served {
			all[from] += n
		}
	}
	return all
}

// pause waits for d, and reports false if the load ended.
func (l *load) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.stopping:
		return false
	}
}

// A kind of client.
type kind int

const (
	newConnections kind = iota // a new connection for each request
	keepAlive                  // one connection, request after request
	withPauses                 // one connection that is idle for a moment before each request
	kinds
)

func (k kind) String() string {
	return [...]string{"on new connections", "kept alive", "kept alive, with pauses"}[k]
}

// A client speaks HTTP/1.1 and never sends a request twice: http.Transport does, and would hide the
// losses that we are looking for. It does what a client must: it sends nothing on a connection after
// the server said "Connection: close" or closed it.
type client struct {
	load *load
	id   int
	kind kind
	addr string

	conn *net.TCPConn
	raw  syscall.RawConn
	in   *bufio.Reader

	connected time.Duration // when conn was made, after the begin of the load
	last      int           // the pid that the last answer on conn came from, 0 before the first one

	requests   int
	reconnects int // the server ended a kept-alive connection in good order
	samples    []sample
	served     map[origin]int64
	failures   []failure
}

// A sample is a request that was answered.
type sample struct {
	start time.Duration // after the begin of the load
	took  uint32        // µs
	pid   int32         // of who answered
}

func (s sample) end() time.Duration { return s.start + s.duration() }

func (s sample) duration() time.Duration { return time.Duration(s.took) * time.Microsecond }

// An origin is the process that an answer says it comes from.
type origin struct {
	generation uint64
	pid        int
}

// A failure is a request that was not answered as it should have been.
type failure struct {
	at     time.Duration
	client int
	kind   kind
	err    error

	connected time.Duration // when its connection was made, 0 if it could not be
	last      int           // the pid that answered on it before, 0 if none did
}

func (f failure) String() string {
	return fmt.Sprintf("%.3f s, client %d (%v): %v", f.at.Seconds(), f.client, f.kind, f.err)
}

func (c *client) run() {
	defer c.hangUp()
	for {
		var idle time.Duration
		if c.kind == withPauses {
			idle = time.Millisecond + rand.N(9*time.Millisecond)
		}
		select {
		case <-c.load.stopping:
			return
		default:
		}
		if idle > 0 && !c.load.pause(idle) {
			return
		}
		if err := c.request(); err != nil {
			f := failure{at: time.Since(c.load.begin), client: c.id, kind: c.kind, err: err}
			if c.conn != nil {
				f.connected, f.last = c.connected, c.last
			}
			c.hangUp()
			c.failures = append(c.failures, f)
			c.load.failed.Add(1)
			c.load.pause(10 * time.Millisecond) // a server that is gone refuses very quickly
		}
	}
}

// request makes one request, and counts it if it is answered.
func (c *client) request() error {
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
	start := time.Now()
	from, more, err := c.ask(path)
	if err != nil {
		return err
	}
	took := time.Since(start)
	c.samples = append(c.samples, sample{start.Sub(c.load.begin), uint32(took.Microseconds()), int32(from.pid)})
	c.last = from.pid
	c.served[from]++
	c.load.answered.Add(1)
	if more {
		return nil
	}
	// The server closes first, in good order; it also keeps the TIME_WAIT on its side.
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.WithMessage(unexpected(err), "after the last answer")
	}
	c.hangUp()
	if c.kind != newConnections {
		c.reconnects++
	}
	return nil
}

// ask sends a request and reads the answer to its end. It reports whether another request may
// follow on the connection.
func (c *client) ask(path string) (from origin, more bool, err error) {
	if c.conn == nil {
		if err := c.connect(); err != nil {
			return from, false, err
		}
	}
	_ = c.conn.SetDeadline(time.Now().Add(requestTimeout))
	request := "GET " + path + " HTTP/1.1\r\nHost: fdpass\r\n"
	if c.kind == newConnections {
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
	_, err = fmt.Sscanf(string(body), answerFormat, &from.generation, &from.pid, &echo)
	if err != nil || r.StatusCode != http.StatusOK || echo != path {
		return from, false, errors.Errorf("wrong answer to %s: %s, %q", path, r.Status, body)
	}
	return from, !r.Close, nil
}

func (c *client) connect() error {
	conn, err := net.DialTimeout("tcp", c.addr, requestTimeout)
	if err != nil {
		return err
	}
	c.conn, c.in = conn.(*net.TCPConn), bufio.NewReader(conn)
	c.connected, c.last = time.Since(c.load.begin), 0
	c.raw, err = c.conn.SyscallConn()
	return err
}

func (c *client) hangUp() {
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
