package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

const never = time.Hour

// startServer serves h on a loopback port until the test ends.
func startServer(t *testing.T, h http.HandlerFunc) *drainer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, ln.(*net.TCPListener), h)
}

func startOn(t *testing.T, ln *net.TCPListener, h http.Handler) *drainer {
	d := newDrainer(&http.Server{Handler: h}, ln)
	ended := make(chan error)
	go func() { ended <- d.serve() }()
	t.Cleanup(func() {
		_ = d.gate.Close()
		_ = d.srv.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// A talker is a client by hand.
type talker struct {
	*net.TCPConn
	t  *testing.T
	in *bufio.Reader
}

func dial(t *testing.T, ln net.Listener) *talker {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &talker{c.(*net.TCPConn), t, bufio.NewReader(c)}
}

func (c *talker) say(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

const question = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"

// hear reads an answer and checks whether it says close.
func (c *talker) hear(wantClose bool) {
	c.t.Helper()
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "ok" || r.Close != wantClose {
		c.t.Fatalf("answer %q, %v, close %v, want %v", body, err, r.Close, wantClose)
	}
}

// ends reads the end of the connection.
func (c *talker) ends() {
	c.t.Helper()
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("%v instead of the end", err)
	}
}

type outcome struct {
	drained
	err error
}

func drainInBackground(ctx context.Context, d *drainer, grace time.Duration) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		d.gate.pause()
		result, err := d.drain(ctx, grace)
		done <- outcome{result, err}
	}()
	return done
}

func draining(t *testing.T, d *drainer) {
	t.Helper()
	testutil.Eventually(t, "the drain has begun", d.closing.Load)
}

func accepted(t *testing.T, d *drainer, n int) {
	t.Helper()
	testutil.Eventually(t, "the server has accepted", func() bool { return d.count() == n })
}

func idle(t *testing.T, d *drainer) {
	t.Helper()
	testutil.Eventually(t, "the connections are idle", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, s := range d.open {
			if s.ConnState != http.StateIdle {
				return false
			}
		}
		return true
	})
}

// The deterministic form of what Shutdown loses: connect, begin to end the server, then speak.
func TestDrainAnswersNewConnection(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	c := dial(t, d.gate)
	accepted(t, d, 1)
	done := drainInBackground(t.Context(), d, never)
	draining(t, d)
	c.say(question)
	c.hear(true)
	c.ends()
	if o := <-done; o != (outcome{}) {
		t.Errorf("%+v", o)
	}
}

// The control for the above: the same with Shutdown alone.
func TestShutdownDropsNewConnection(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	c := dial(t, d.gate)
	accepted(t, d, 1)
	begun := make(chan struct{})
	d.srv.RegisterOnShutdown(func() { close(begun) })
	done := make(chan error, 1)
	go func() { done <- d.srv.Shutdown(t.Context()) }()
	<-begun
	c.say(question)
	if r, err := http.ReadResponse(c.in, nil); err == nil {
		_ = r.Body.Close()
		t.Errorf("Shutdown answers now: %v; drain.go may become shorter", r.Status)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDrainAnswersKeptAliveConnection(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	c := dial(t, d.gate)
	for range 2 {
		c.say(question)
		c.hear(false)
	}
	idle(t, d)
	done := drainInBackground(t.Context(), d, never)
	draining(t, d)
	c.say(question)
	c.hear(true)
	c.ends()
	if o := <-done; o != (outcome{}) {
		t.Errorf("%+v", o)
	}
}

// An answer that was begun before the drain cannot say close any more. Its connection gets a grace
// of its own.
func TestDrainWaitsForActiveConnection(t *testing.T) {
	testutil.NoLeaks(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	d := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		ok(w, r)
	})
	c := dial(t, d.gate)
	c.say(question)
	<-asked
	const grace = 100 * time.Millisecond
	done := drainInBackground(t.Context(), d, grace)
	draining(t, d)
	select {
	case o := <-done:
		t.Fatalf("did not wait: %+v", o)
	case <-time.After(2 * grace):
	}
	close(answer)
	c.hear(false)
	begin := time.Now()
	c.ends()
	if took := time.Since(begin); took < grace/2 {
		t.Errorf("closed after %v", took)
	}
	if o := <-done; o != (outcome{drained: drained{idle: 1}}) {
		t.Errorf("%+v", o)
	}
}

func TestDrainClosesSilentConnection(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	c := dial(t, d.gate)
	c.say(question)
	c.hear(false)
	idle(t, d)
	const grace = 50 * time.Millisecond
	begin := time.Now()
	done := drainInBackground(t.Context(), d, grace)
	c.ends()
	if took := time.Since(begin); took < grace {
		t.Errorf("closed after %v", took)
	}
	if o := <-done; o != (outcome{drained: drained{idle: 1}}) {
		t.Errorf("%+v", o)
	}
}

// Half a request is not silence, though http.Server calls the connection idle.
func TestDrainHearsHalfRequest(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	c := dial(t, d.gate)
	c.say(question)
	c.hear(false)
	idle(t, d)
	const grace = 200 * time.Millisecond
	done := drainInBackground(t.Context(), d, grace)
	draining(t, d)
	for i := range len(question) {
		c.say(question[i : i+1])
		if i < 4 {
			time.Sleep(grace / 2) // a slow client
		}
	}
	c.hear(true)
	c.ends()
	if o := <-done; o != (outcome{}) {
		t.Errorf("%+v", o)
	}
}

func TestDrainDeadline(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	c := dial(t, d.gate)
	accepted(t, d, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := drainInBackground(ctx, d, never)
	c.ends()
	if o := <-done; o != (outcome{drained: drained{cut: 1}}) {
		t.Errorf("%+v", o)
	}
}

// While the gate is shut, clients wait in the queue, and are served when it opens again.
func TestGateResumes(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	for range 20 {
		d.gate.pause()
		c := dial(t, d.gate)
		c.say(question)
		if n := d.count(); n != 0 {
			t.Fatalf("%d connections accepted at a shut gate", n)
		}
		d.gate.resume()
		c.hear(false)
		_ = c.Close()
		accepted(t, d, 0)
	}
	d.gate.pause()
	d.gate.pause()
	d.gate.resume()
	c := dial(t, d.gate)
	c.say(question)
	c.hear(false)
}

// A server that has no successor serves what is in the queue. The deadline that shuts its gate is
// past before Accept looks there.
func TestGateEmpties(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	d.gate.pause()
	var queued []*talker
	for range 10 {
		c := dial(t, d.gate)
		c.say(question)
		queued = append(queued, c)
	}
	d.gate.empty()
	if _, err := d.drain(t.Context(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for _, c := range queued {
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
	}
}

// Clients that never rest cannot keep the gate from shutting.
func TestGateEmptiesForASecond(t *testing.T) {
	testutil.NoLeaks(t)
	d := startServer(t, ok)
	d.gate.pause()
	l := startLoad(d.gate.Addr().String(), 16)
	defer l.stop()
	begin := time.Now()
	d.gate.empty()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	d.gate.resume()
}

// replace has generations of a server replace each other in this process, under the load of the
// real clients, n times or until a request failed. It returns what failed.
func replace(t *testing.T, n int, end func(*drainer) error) []failure {
	t.Helper()
	var l *load
	var old *drainer
	for generation := 1; generation <= n+1; generation++ {
		s := &server{generation: generation}
		if old == nil {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			old = startOn(t, ln.(*net.TCPListener), s)
			l = startLoad(ln.Addr().String(), 32)
			continue
		}
		next := startOn(t, copyListener(t, old.gate.ln), s)
		if err := end(old); err != nil {
			t.Error(err)
		}
		old = next
		enough := l.answered.Load() + 200
		testutil.Eventually(t, "200 answers", func() bool { return l.answered.Load() > enough })
		if l.failed.Load() > 0 {
			break
		}
	}
	l.stop()
	t.Logf("%d answers, %d failures", l.answered.Load(), l.failed.Load())
	return l.failures()
}

// copyListener passes ln through a socketpair, as to a successor.
func copyListener(t *testing.T, ln *net.TCPListener) *net.TCPListener {
	t.Helper()
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := a.Send([]byte("listener"), ln); err != nil {
		t.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 64), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	got, err := m.Files.TakeListener(0)
	if err != nil {
		t.Fatal(err)
	}
	return got.(*net.TCPListener)
}

func TestDrainUnderLoad(t *testing.T) {
	testutil.NoLeaks(t)
	failures := replace(t, 20, func(d *drainer) error {
		d.gate.pause()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := d.drain(ctx, time.Second)
		return err
	})
	for _, f := range failures {
		t.Error(f)
	}
}

// The negative control: the clients see what Shutdown loses, so they would see it if a drain lost
// something.
func TestShutdownUnderLoad(t *testing.T) {
	testutil.NoLeaks(t)
	failures := replace(t, 200, func(d *drainer) error { return d.srv.Shutdown(t.Context()) })
	if len(failures) == 0 {
		t.Error("nothing failed in 200 plain Shutdowns: the clients do not notice")
	}
	for _, f := range failures {
		t.Log(f)
	}
}
