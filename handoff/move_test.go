//go:build linux

package handoff

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
)

// A removal is a predecessor's and a successor's server in one process, and what moves between them.
type removal struct {
	t       *testing.T
	addr    string
	old     *httpDrain
	from    *listener
	into    *listener
	mover   *mover
	arrival *arrivals
	ended   chan error // of the old server's drain
	moved   error      // of the mover, when the drain has ended
}

// newRemoval serves with both. Answers say whose they are.
func newRemoval(t *testing.T, old, fresh *http.Server) *removal {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	copied, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	r := &removal{t: t, addr: tcp.Addr().String(), ended: make(chan error, 1)}
	serve := func(srv *http.Server, ln net.Listener, parked bool) (*httpDrain, *listener) {
		l, err := newListener("web", ln, parked)
		if err != nil {
			t.Fatal(err)
		}
		d := newHTTPDrain(srv)
		served := make(chan error, 1)
		go func() { served <- d.serve(l) }()
		t.Cleanup(func() {
			_ = l.release()
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
			d.cut(context.Background(), drained{})
		})
		return d, l
	}
	r.old, r.from = serve(old, tcp, false)
	_, r.into = serve(fresh, copied, true)
	if r.mover, err = newMover(patient); err != nil {
		t.Fatal(err)
	}
	r.arrival = arrivalsOf(t, r.mover)
	r.arrival.begin([]*listener{r.into})
	if err := r.mover.open(time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.mover.close()
		<-r.arrival.done
	})
	return r
}

// arrivalsOf is the other end of m, as if it had been received.
func arrivalsOf(t *testing.T, m *mover) *arrivals {
	t.Helper()
	maker, err := credentials.PeerProcess(m.theirs)
	if err != nil {
		t.Fatal(err)
	}
	a := &arrivals{conn: m.theirs, maker: maker}
	m.theirs = nil
	return a
}

// begin has everything move, until the drain of the old server has ended.
func (r *removal) begin() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.t.Cleanup(cancel)
	if err := r.from.pause(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.into.resume()
	r.old.mover.Store(r.mover)
	moving := make(chan struct{})
	moveCtx, stop := context.WithCancel(ctx)
	go func() {
		defer close(moving)
		r.moved = r.mover.run(moveCtx, r.old.open())
	}()
	go func() {
		_, err := r.old.drain(ctx, 45*time.Second)
		stop()
		<-moving
		r.ended <- err
	}()
}

func (r *removal) await() {
	r.t.Helper()
	if err := <-r.ended; err != nil {
		r.t.Errorf("the drain: %v", err)
	}
}

func sayer(who string) *http.Server {
	return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", who, r.URL.Path, body)
	})}
}

// A talk is a raw client's connection.
type talk struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func (r *removal) dial() *talk {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	r.t.Cleanup(func() { c.Close() })
	return &talk{r.t, c, bufio.NewReader(c)}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

func (k *talk) send(s string) {
	k.t.Helper()
	if _, err := io.WriteString(k, s); err != nil {
		k.t.Fatal(err)
	}
}

// answer returns the next answer and whether it ends the connection.
func (k *talk) answer() (string, bool) {
	k.t.Helper()
	resp, err := http.ReadResponse(k.in, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(body), resp.Close
}

func (k *talk) want(answer string, closes bool) {
	k.t.Helper()
	got, closing := k.answer()
	if got != answer || closing != closes {
		k.t.Errorf("%q, closing %v; want %q, %v", got, closing, answer, closes)
	}
}

// untilNew asks until the new server answers. http.Server looks for the next request while it sends an answer; if it
// is as quick as that, the connection does not move before it.
func (k *talk) untilNew() {
	k.t.Helper()
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		k.send(get("/then"))
		switch answer, closing := k.answer(); {
		case closing:
			k.t.Fatalf("%q ends the connection", answer)
		case strings.HasPrefix(answer, "new"):
			return
		}
	}
	k.t.Fatal("the connection does not move")
}

// untilClosing asks until an answer of the old server ends the connection.
func (k *talk) untilClosing() {
	k.t.Helper()
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		k.send(get("/b"))
		answer, closing := k.answer()
		if answer != "old /b " {
			k.t.Fatalf("%q", answer)
		}
		if closing {
			return
		}
	}
	k.t.Fatal("the connection is not closed")
}

// awaitCount waits until n connections are open with the old server.
func (r *removal) awaitCount(n int) {
	r.t.Helper()
	testutil.Eventually(r.t, fmt.Sprintf("%d connections are open", n), func() bool { return r.old.count() == n })
}

// Connections that wait for their next request, or for their first, go on with the successor.
func TestMove(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRemoval(t, sayer("old"), sayer("new"))
	var used, unused []*talk
	for i := range 40 {
		k := r.dial()
		if i%2 == 0 {
			unused = append(unused, k)
			continue
		}
		k.send(get("/a"))
		k.want("old /a ", false)
		used = append(used, k)
	}
	r.awaitCount(40)
	r.begin()
	r.await()
	for _, k := range slices.Concat(used, unused) {
		for range 2 {
			k.send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
			k.want("new /b body", false)
		}
	}
	if r.mover.moved != 40 {
		t.Errorf("%d moved", r.mover.moved)
	}
}

// What the server has read of the next request must not be lost: the connection moves behind its answer.
func TestMoveBetweenRequests(t *testing.T) {
	next := get("/next")
	for _, read := range []int{1, 2, 3, 4, 5, len("GET /next HTTP/1.1\r\n"), len(next) - 2, len(next) - 1} {
		t.Run(fmt.Sprint(read), func(t *testing.T) {
			testutil.NoLeaks(t)
			hold := make(chan struct{})
			arrived := make(chan struct{}, 1)
			old := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/first" {
					arrived <- struct{}{}
					<-hold
				}
				fmt.Fprint(w, "old ", r.URL.Path)
			})}
			r := newRemoval(t, old, sayer("new"))
			k := r.dial()
			k.send(get("/first") + next[:read]) // pipelined, in part
			<-arrived
			r.begin()
			close(hold)
			k.want("old /first", false)
			k.send(next[read:])
			k.want("old /next", false)
			k.untilNew()
			r.await()
		})
	}
}

// The same for a request that comes in pieces after a silence, and for the first one.
func TestMovePieces(t *testing.T) {
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			testutil.NoLeaks(t)
			r := newRemoval(t, sayer("old"), sayer("new"))
			k := r.dial()
			if !first {
				k.send(get("/a"))
				k.want("old /a ", false)
			}
			r.awaitCount(1)
			whole := get("/pieces")
			k.send(whole[:len("GET /pieces HTTP/1.1\r\n")]) // the server takes a line out of its buffer, which is empty then
			c := r.old.open()[0]
			testutil.Eventually(t, "the piece is read", func() bool {
				c.halt.mu.Lock()
				defer c.halt.mu.Unlock()
				return c.heard.Load() >= 0 && !c.halt.silent
			})
			// When another one has moved that was waiting, all have been asked to.
			other := r.dial()
			r.awaitCount(2)
			testutil.Eventually(t, "the other one waits", func() bool {
				for _, c := range r.old.open() {
					c.halt.mu.Lock()
					waits := c.halt.reading && c.heard.Load() < 0
					c.halt.mu.Unlock()
					if waits {
						return true
					}
				}
				return false
			})
			r.begin()
			testutil.Eventually(t, "the other one has moved", func() bool { return r.into.count() == 1 })
			other.Close()
			k.send(whole[len("GET /pieces HTTP/1.1\r\n"):])
			k.want("old /pieces ", false)
			k.untilNew()
			r.await()
		})
	}
}

// Clients that ask without a pause keep their connections, and every request is answered.
func TestMoveBusy(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRemoval(t, sayer("old"), sayer("new"))
	var begun, asked, byNew atomic.Int64
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for range 20 {
		k := r.dial()
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := io.WriteString(k, get("/x")); err != nil {
					t.Error(err)
					return
				}
				resp, err := http.ReadResponse(k.in, nil)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.Close {
					t.Error("an answer ends the connection")
					return
				}
				asked.Add(1)
				if n == 0 {
					begun.Add(1)
				}
				if strings.HasPrefix(string(body), "new") {
					byNew.Add(1)
				}
			}
		})
	}
	testutil.Eventually(t, "all ask", func() bool { return begun.Load() == 20 && asked.Load() > 200 })
	r.begin()
	r.await()
	before := byNew.Load()
	testutil.Eventually(t, "the new one answers", func() bool { return byNew.Load() > before+200 })
	close(stop)
	clients.Wait()
	if r.mover.moved != 20 {
		t.Errorf("%d moved", r.mover.moved)
	}
}

// What a server keeps of a connection beside the kernel cannot move: TLS, a listener's own connections.
func TestMoveLeavesOthers(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRemoval(t, sayer("old"), sayer("new"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newListener("web", ln, false)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.old.serve(wrapping{l}) }()
	defer func() {
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k := &talk{t, c, bufio.NewReader(c)}
	k.send(get("/a"))
	k.want("old /a ", false)
	r.begin()
	k.untilClosing()
	r.await()
	if r.mover.moved != 0 {
		t.Errorf("%d moved", r.mover.moved)
	}
}

// wrapping is a listener of a program's own.
type wrapping struct{ net.Listener }

func (w wrapping) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wrapped{c}, nil
}

type wrapped struct{ net.Conn }

func (w *wrapped) NetConn() net.Conn { return w.Conn }

// The successor's server takes what arrives for a new connection; its time for the first request must not begin
// before that comes.
func TestMoveDeadlines(t *testing.T) {
	testutil.NoLeaks(t)
	const short = time.Second // and longer than between two halves of a request
	fresh := sayer("new")
	fresh.ReadHeaderTimeout, fresh.ReadTimeout, fresh.IdleTimeout = short, 2*short, time.Minute
	r := newRemoval(t, sayer("old"), fresh)
	k, slow := r.dial(), r.dial()
	for _, c := range []*talk{k, slow} {
		c.send(get("/a"))
		c.want("old /a ", false)
	}
	r.begin()
	r.await()
	if n, err := io.ReadFull(deadline{k, 3 * short}, make([]byte, 1)); !errors.Is(err, errTimeout) {
		t.Fatalf("%d bytes, %v: an idle connection is closed", n, err)
	}
	k.send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
	k.send("body")
	k.want("new /b body", false)
	slow.send("GET /") // and nothing more
	start := time.Now()
	if _, err := io.Copy(io.Discard, slow.in); err != nil || time.Since(start) > 30*time.Second {
		t.Errorf("half a request header is waited for: %v after %v", err, time.Since(start))
	}
}

var errTimeout = syscall.ETIMEDOUT

// deadline reads with a deadline of its own, whose end is errTimeout.
type deadline struct {
	*talk
	d time.Duration
}

func (d deadline) Read(p []byte) (int, error) {
	_ = d.SetReadDeadline(time.Now().Add(d.d))
	defer func() { _ = d.SetReadDeadline(time.Now().Add(time.Minute)) }()
	n, err := d.Conn.Read(p)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = errTimeout
	}
	return n, err
}

// A successor that goes leaves the predecessor what it has not acknowledged, and that is answered.
func TestMoveSuccessorGone(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRemoval(t, sayer("old"), sayer("new"))
	k := r.dial()
	k.send(get("/a"))
	k.want("old /a ", false)
	r.arrival.end(t.Context())
	r.begin()
	k.untilClosing()
	r.await()
	if !errors.Is(r.moved, scm.ErrPeerGone) {
		t.Errorf("the predecessor is not told why: %v", r.moved)
	}
}

// A server that also speaks HTTP/2 without TLS reads a few bytes first, so nobody can tell what is left in its buffer.
// Its connections stay, and are told.
func TestMoveLeavesUnencryptedHTTP2(t *testing.T) {
	testutil.NoLeaks(t)
	old := sayer("old")
	old.Protocols = new(http.Protocols)
	old.Protocols.SetHTTP1(true)
	old.Protocols.SetUnencryptedHTTP2(true)
	r := newRemoval(t, old, sayer("new"))
	k := r.dial()
	k.send(get("/a"))
	k.want("old /a ", false)
	r.begin()
	k.untilClosing()
	r.await()
}

// A handler's own deadline is what it says, however long its connection had been idle.
func TestMoveOwnDeadline(t *testing.T) {
	testutil.NoLeaks(t)
	took := make(chan time.Duration, 1)
	fresh := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		_ = http.NewResponseController(w).SetReadDeadline(begin.Add(100 * time.Millisecond))
		_, err := io.ReadAll(r.Body)
		if err == nil {
			t.Error("the body was read")
		}
		took <- time.Since(begin)
	})}
	r := newRemoval(t, sayer("old"), fresh)
	k := r.dial()
	k.send(get("/a"))
	k.want("old /a ", false)
	r.begin()
	r.await()
	const idle = 3 * time.Second // which must not be added
	if _, err := io.ReadFull(deadline{k, idle}, make([]byte, 1)); !errors.Is(err, errTimeout) {
		t.Fatal(err)
	}
	k.send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
	if d := <-took; d >= idle {
		t.Errorf("its 100 ms took %v", d)
	}
}

// However many goroutines accept, a connection that arrives is returned by one, and no other gets an error.
func TestArriveManyAccept(t *testing.T) {
	testutil.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newListener("web", ln, false)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn)
	var accepting sync.WaitGroup
	for range 4 {
		accepting.Go(func() {
			for {
				c, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				accepted <- c
			}
		})
	}
	for range 300 {
		a, b := tcpPair(t)
		if !l.arrive(newConn(l, a)) {
			t.Fatal("refused")
		}
		(<-accepted).Close()
		b.Close()
	}
	_ = l.release()
	accepting.Wait()
}

// A predecessor that hangs between acknowledgement and closed keeps a drain for Answer, not for all of its time.
func TestMoveDrainOfHung(t *testing.T) {
	testutil.NoLeaks(t)
	s, err := Start(t.Context(), Options{Name: "web", Program: "/bin/true", Deadlines: Deadlines{Answer: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := s.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMover(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	s.arrivals = arrivalsOf(t, m)
	go s.Serve(sayer("new"), ln)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-ln.(*listener).waiting()
	s.beginArrivals()
	if err := m.open(time.Minute); err != nil {
		t.Fatal(err)
	}
	a, b := tcpPair(t)
	defer b.Close()
	if err := m.conn.Send(newFrame(frameItems, 1, (&Item{Name: ln.(*listener).name, Kind: Connection}).append(nil)), a); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := m.receive(time.Now().Add(time.Minute)); err != nil { // acknowledged
		t.Fatal(err)
	}
	r := &removal{t: t, addr: ln.Addr().String()}
	k := r.dial()
	k.send(get("/a"))
	k.want("new /a ", false)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(ctx) }()
	for closing := false; !closing; {
		k.send(get("/b"))
		_, closing = k.answer()
	}
	if err := <-drained; err != nil {
		t.Errorf("the drain: %v", err)
	}
	if ctx.Err() != nil {
		t.Error("it took all of its time")
	}
	select {
	case <-s.arrivals.done:
	case <-time.After(20 * time.Second):
		t.Error("the batch is still waited for")
	}
}

// A successor that breaks the rules gets nothing, and the connections stay.
func TestMoveHostile(t *testing.T) {
	for name, frames := range map[string][][]byte{
		"too many acknowledged": {newFrame(frameAck, 0, appendUint32(nil, tagCount, 99))},
		"no count":              {newFrame(frameAck, 0, nil)},
		"malformed":             {{1, 2, 3}},
		"abort":                 nil,
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			m, err := newMover(patient)
			if err != nil {
				t.Fatal(err)
			}
			theirs := m.theirs
			defer m.close()
			_ = theirs.SetReadDeadline(time.Now().Add(20 * time.Second))
			if err := theirs.Send(newFrame(frameWants, 0, appendString(nil, tagName, "web"))); err != nil {
				t.Fatal(err)
			}
			if err := m.open(time.Minute); err != nil {
				t.Fatal(err)
			}
			if len(frames) == 0 {
				m.limit = 200 * time.Millisecond // or it would wait
			}
			a, b := tcpPair(t)
			defer b.Close()
			l := &listener{name: "web", conns: map[*conn]struct{}{}}
			c := l.add(newConn(l, a))
			defer c.Close()
			c.halt.stopped = true
			for _, f := range frames {
				if err := theirs.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.move([]*conn{c}); err == nil {
				t.Error("the batch moved")
			}
			if c.halt.stopped || c.halt.moved {
				t.Errorf("the connection does not go on: %+v", &c.halt)
			}
			// The items, and then that they are not the successor's.
			in := make([]byte, frameHeader+maxPayload)
			for i, kind := range []frameType{frameItems, frameAbort} {
				got, err := theirs.Receive(in, 10)
				if err != nil {
					t.Fatal(err)
				}
				if f, err := parsePacket(got.Data); err != nil || f.kind != kind {
					t.Errorf("%d: %v, %v", i, f.kind, err)
				}
				got.Close()
			}
		})
	}
}

// A successor that never stops talking does not postpone the end of the wait for its acknowledgement.
func TestMoveFlood(t *testing.T) {
	testutil.NoLeaks(t)
	m, err := newMover(100 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for m.theirs.Send(newFrame(frameAck, 0, appendUint32(nil, tagCount, 0))) == nil {
		}
	}()
	a, b := tcpPair(t)
	defer b.Close()
	l := &listener{name: "web", conns: map[*conn]struct{}{}}
	c := l.add(newConn(l, a))
	defer c.Close()
	if err := within(t, func() error { return m.move([]*conn{c}) }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("move: %v", err)
	}
	m.close()
	<-flooded
}

// Nobody reads from a batch before the successor has been told that it stays. If it lives and cannot be told, nobody
// could say whose the connections are: they are closed.
func TestMoveUntold(t *testing.T) {
	testutil.NoLeaks(t)
	m, err := newMover(100 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.names = map[string]bool{"web": true}
	a, b := tcpPair(t)
	defer b.Close()
	l := &listener{name: "web", conns: map[*conn]struct{}{}}
	c := l.add(newConn(l, a))
	left := make(chan bool, 1)
	go func() { // its reader
		c.halt.mu.Lock()
		defer c.halt.mu.Unlock()
		left <- c.leaves(m)
	}()
	<-m.more
	for err == nil { // a successor that reads nothing
		err = sysfd.Control(m.conn, func(fd int) error {
			return unix.Sendto(fd, newFrame(200, 0, make([]byte, 10)), unix.MSG_DONTWAIT, nil)
		})
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	m.takeBack(m.take(1), errors.New("no"))
	if !<-left {
		t.Error("its reader goes on")
		c.Close()
	}
	if l.count() != 0 {
		t.Error("it is still open")
	}
}

// The successor touches nothing of what it has acknowledged before the predecessor has closed its copies. One that
// takes the batch back says so, or closes the pair and lives; what the client has sent is there for it.
func TestArriveAwaitsClosed(t *testing.T) {
	closed := func(count uint32) []byte { return newFrame(frameClosed, 0, appendUint32(nil, tagCount, count)) }
	for name, c := range map[string]struct {
		frames [][]byte
		taken  int
	}{
		"closed":                  {[][]byte{closed(1)}, 1},
		"taken back":              {[][]byte{newFrame(frameAbort, 0, abort(errors.New("no")))}, 0},
		"closed of other batches": {[][]byte{closed(0), closed(2)}, 0},
		"the end":                 {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			m, a, l := arriving(t)
			ours, client := tcpPair(t)
			defer ours.Close()
			defer client.Close()
			if _, err := io.WriteString(client, get("/")); err != nil {
				t.Fatal(err)
			}
			if err := m.conn.Send(newFrame(frameItems, 1, (&Item{Name: "web", Kind: Connection}).append(nil)), ours); err != nil {
				t.Fatal(err)
			}
			if _, err := m.receive(time.Now().Add(time.Minute)); err != nil { // acknowledged
				t.Fatal(err)
			}
			for _, f := range c.frames {
				if err := m.conn.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			_ = m.conn.Close()
			<-a.done
			if n := l.count(); n != c.taken {
				t.Errorf("the successor has %d connections, not %d", n, c.taken)
			}
			for _, arrived := range l.open() {
				arrived.Close()
			}
			_ = ours.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.ReadFull(ours, make([]byte, len(get("/")))); err != nil {
				t.Errorf("what the client has sent: %v", err)
			}
		})
	}
}

// arriving returns both sides of a move to the listener web, which has begun. They end with the test.
func arriving(t *testing.T) (*mover, *arrivals, *listener) {
	t.Helper()
	m, err := newMover(patient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	l := webListener(t)
	t.Cleanup(func() { l.release() })
	a := arrivalsOf(t, m)
	a.begin([]*listener{l})
	if err := m.open(time.Minute); err != nil {
		t.Fatal(err)
	}
	return m, a, l
}

// The same from the other side: what is no connection that was asked for is refused, and closed.
func TestArriveHostile(t *testing.T) {
	item := func(it Item) []byte { return it.append(nil) }
	for name, payload := range map[string][]byte{
		"another listener": item(Item{Name: "other", Kind: Connection}),
		"a listener":       item(Item{Name: "web", Kind: Listener}),
		"no item":          nil,
		"two items":        append(item(Item{Name: "web", Kind: Connection}), item(Item{Name: "web", Kind: Connection})...),
		"malformed":        {0, 5, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			m, a, l := arriving(t)
			one, two := tcpPair(t)
			defer two.Close()
			if err := m.conn.Send(newFrame(frameItems, 1, payload), one); err != nil {
				t.Fatal(err)
			}
			one.Close()
			select {
			case <-a.done:
			case <-time.After(20 * time.Second):
				t.Fatal("it was taken")
			}
			if l.count() != 0 {
				t.Error("it was accepted")
			}
			if _, err := two.Read(make([]byte, 1)); err == nil {
				t.Error("the connection is still open")
			}
		})
	}
}

func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	x, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// movePoints are the moments at which one of the two may die, or be stopped, while connections move.
func movePoints(t *testing.T) []point {
	t.Helper()
	var mu sync.Mutex
	var all []point
	probe = func(role string, at step, before string) {
		mu.Lock()
		defer mu.Unlock()
		if p := (point{role, at, before}); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	defer func() { probe = nil }()
	r := newRemoval(t, sayer("old"), sayer("new"))
	k := r.dial()
	k.send(get("/a"))
	k.want("old /a ", false)
	r.begin()
	r.await()
	k.send(get("/b"))
	k.want("new /b ", false)
	if len(all) != 5 {
		t.Errorf("points %v", all)
	}
	return all
}

// Whoever dies, or is stopped, while connections move: no request is lost but those that the dead one had.
func TestMoveCrash(t *testing.T) {
	for _, what := range []string{"kill", "stop"} {
		for _, p := range movePoints(t) {
			t.Run(what+"/"+p.String(), func(t *testing.T) {
				t.Parallel()
				moveCrash(t, what, p)
			})
		}
	}
}

func moveCrash(t *testing.T, what string, p point) {
	// On a slow machine a short deadline may pass before the fault strikes: then nothing moves any more.
	for limit := 200 * time.Millisecond; !moveCrashWithin(t, limit, what, p); limit *= 4 {
		if limit > 10*time.Second {
			t.Fatal("the fault does not strike")
		}
	}
}

// moveCrashWithin reports false if the fault did not strike. A deadline that is as short as limit is for those who are stopped.
func moveCrashWithin(t *testing.T, limit time.Duration, what string, p point) (struck bool) {
	c := config(t)
	c.TCP = testutil.FreeAddress(t)
	if what == "stop" {
		c.Deadlines.Answer = limit
	}
	faulty := c
	faulty.Role, faulty.Step, faulty.Before, faulty.Do = p.role, p.at, p.before, what
	one, two := c, faulty
	if p.role == "predecessor" {
		one, two = faulty, c
	}
	first := launch(t, one)
	ready := first.await("ready")
	load := &clients{stop: make(chan struct{})}
	if what != "kill" || p.role != "predecessor" { // then the first batch is of those that wait
		load = startClients(c, ready.Addr)
	}
	t.Cleanup(load.end)
	// Connections that wait: each asks before and after.
	var waiting []*talk
	for range 40 {
		conn, err := net.Dial("tcp", ready.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		k := &talk{t, conn, bufio.NewReader(conn)}
		k.send(get("/before"))
		k.answer()
		waiting = append(waiting, k)
	}
	second := launch(t, two)
	victim, survivor := second, first
	if p.role == "predecessor" {
		victim, survivor = first, second
	}
	if what == "kill" {
		if err := <-victim.ended; err == nil || err.Error() != killed {
			t.Fatalf("it was to be killed, and ended: %v", err)
		}
	} else {
		pid := waitFor(t, victim, victim, "stopping").PID
		if pid == 0 {
			load.end()
			return false
		}
		testutil.AwaitStopped(t, pid)
		time.Sleep(limit * 5) // beyond Answer, of which the other makes no event
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	if p.role == "successor" && what == "kill" {
		// The predecessor had given up its right: it answers what it still has, and nobody accepts.
		survivor.await("end")
	} else {
		lost := 0
		for _, k := range waiting {
			if hasEnded(k.Conn) {
				lost++ // in good order: nothing was asked
				continue
			}
			k.send(get("/after"))
			if _, err := http.ReadResponse(k.in, nil); err != nil {
				t.Errorf("a connection that waited: %v", err)
			}
		}
		// With a predecessor that is killed dies what it has, but not the batch of which the successor knows.
		allowed := 0
		if what == "kill" {
			allowed = len(waiting) - 1 // a slow machine's first batch is small
			if p.before == "send connections" {
				allowed = len(waiting)
			}
		}
		if lost > allowed {
			t.Errorf("%d connections were closed, %d could not be kept", lost, allowed)
		}
	}
	third, next := launchUntilReady(t, c, ErrKept.Error(), ErrPredecessorHung.Error())
	mustServe(t, c, ready.Addr, next.PID)
	load.end()
	_ = third.Process.Signal(syscall.SIGTERM)
	third.await("end")
	allowedCut := 0
	if what == "kill" {
		allowedCut = clientsOf // what the killed one was answering
	}
	if p.role == "successor" && what == "kill" {
		return true // nobody was there to answer
	}
	if len(load.refused) > 0 || len(load.cut) > allowedCut {
		t.Errorf("refused %q, cut %q, and %d cuts cannot be avoided", load.refused, load.cut, allowedCut)
	}
	return true
}
