//go:build linux

package handoff

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
)

const never = time.Hour

// A testServer is an http.Server that is served with a drain until the test ends.
type testServer struct {
	*httpDrain
	ln *listener
}

func serveHTTP(t *testing.T, h http.HandlerFunc) *testServer {
	t.Helper()
	return serveHTTPOn(t, &http.Server{Handler: h}, newTestListener(t, "tcp", false))
}

func serveHTTPOn(t *testing.T, srv *http.Server, l *listener) *testServer {
	t.Helper()
	return serveHTTPWith(t, srv, l, func(d *httpDrain) error { return d.serve(l) })
}

func serveHTTPWith(t *testing.T, srv *http.Server, l *listener, serve func(*httpDrain) error) *testServer {
	t.Helper()
	if srv.ErrorLog == nil {
		srv.ErrorLog = log.New(io.Discard, "", 0)
	}
	s := &testServer{prepare(srv).(*httpDrain), l}
	served := make(chan error, 1)
	go func() { served <- serve(s.httpDrain) }()
	t.Cleanup(func() {
		_ = l.release()
		_ = srv.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

func answerOK(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// A talker is a client by hand. It never sends a request twice, as http.Transport does.
type talker struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func talkTo(t *testing.T, l net.Listener) *talker {
	t.Helper()
	c := dialTo(t, l)
	return &talker{c, t, bufio.NewReader(c)}
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

type drainEnd struct {
	drained
	err error
}

// drainInBackground drains after a pause, as when a successor serves.
func drainInBackground(ctx context.Context, t *testing.T, d draining, l *listener, grace time.Duration) <-chan drainEnd {
	t.Helper()
	pauseNow(t, l)
	done := make(chan drainEnd, 1)
	go func() {
		result, err := d.drain(ctx, grace)
		done <- drainEnd{result, err}
	}()
	<-l.released()
	return done
}

func (s *testServer) startDrain(t *testing.T, grace time.Duration) <-chan drainEnd {
	t.Helper()
	return drainInBackground(t.Context(), t, s.httpDrain, s.ln, grace)
}

func (e drainEnd) is(t *testing.T, want drained) {
	t.Helper()
	if e.err != nil || e.drained != want {
		t.Errorf("%+v, %v; want %+v", e.drained, e.err, want)
	}
}

func hasAccepted(t *testing.T, l *listener, n int) {
	t.Helper()
	testutil.Eventually(t, fmt.Sprintf("%d connections are open", n), func() bool { return l.count() == n })
}

// inState waits until all connections are in a state.
func (s *testServer) inState(t *testing.T, want http.ConnState) {
	t.Helper()
	testutil.Eventually(t, "the connections are "+want.String(), func() bool {
		for _, c := range s.ln.open() {
			h := c.served.Load()
			if h == nil || http.ConnState(h.state.Load()) != want || h.requests.Load() > 0 {
				return false
			}
		}
		return true
	})
}

// The deterministic form of what Shutdown loses: connect, begin to end the server, then speak.
func TestDrainAnswersNewConnection(t *testing.T) {
	eachNetwork(t, func(t *testing.T, network string) {
		l := newTestListener(t, network, false)
		s := serveHTTPOn(t, &http.Server{Handler: http.HandlerFunc(answerOK)}, l)
		c := talkTo(t, l)
		hasAccepted(t, l, 1)
		done := s.startDrain(t, never)
		c.say(question)
		c.hear(true)
		c.ends()
		(<-done).is(t, drained{})
	})
}

// The control for the above: the same with Shutdown alone.
func TestShutdownDropsNewConnection(t *testing.T) {
	testutil.NoLeaks(t)
	s := serveHTTP(t, answerOK)
	c := talkTo(t, s.ln)
	hasAccepted(t, s.ln, 1)
	begun := make(chan struct{})
	s.srv.RegisterOnShutdown(func() { close(begun) })
	done := make(chan error, 1)
	go func() { done <- s.srv.Shutdown(t.Context()) }()
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
	s := serveHTTP(t, answerOK)
	c := talkTo(t, s.ln)
	for range 2 {
		c.say(question)
		c.hear(false)
	}
	s.inState(t, http.StateIdle)
	done := s.startDrain(t, never)
	c.say(question)
	c.hear(true)
	c.ends()
	(<-done).is(t, drained{})
}

// An answer that was begun before the drain cannot say close any more. Its connection gets a grace
// of its own.
func TestDrainWaitsForActiveConnection(t *testing.T) {
	testutil.NoLeaks(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	s := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		answerOK(w, r)
	})
	c := talkTo(t, s.ln)
	c.say(question)
	<-asked
	const grace = 100 * time.Millisecond
	done := s.startDrain(t, grace)
	select {
	case e := <-done:
		t.Fatalf("did not wait: %+v", e)
	case <-time.After(2 * grace):
	}
	begin := time.Now()
	close(answer)
	c.hear(false)
	c.ends()
	if took := time.Since(begin); took < grace {
		t.Errorf("closed after %v", took)
	}
	(<-done).is(t, drained{idle: 1})
}

func TestDrainClosesSilentConnection(t *testing.T) {
	testutil.NoLeaks(t)
	s := serveHTTP(t, answerOK)
	c := talkTo(t, s.ln)
	c.say(question)
	c.hear(false)
	s.inState(t, http.StateIdle)
	const grace = 50 * time.Millisecond
	begin := time.Now()
	done := s.startDrain(t, grace)
	c.ends()
	if took := time.Since(begin); took < grace {
		t.Errorf("closed after %v", took)
	}
	(<-done).is(t, drained{idle: 1})
}

// Half a request is not silence, though http.Server calls the connection idle.
func TestDrainHearsHalfRequest(t *testing.T) {
	// On a slow machine the slow client may be silent for longer than it means to.
	for grace, judged := 200*time.Millisecond, false; !judged; grace *= 4 {
		if grace > time.Minute {
			t.Fatal("too slow a machine")
		}
		if !t.Run(grace.String(), func(t *testing.T) { judged = drainHearsHalfRequest(t, grace) }) {
			return
		}
	}
}

// drainHearsHalfRequest reports false if the client was silent for too long.
func drainHearsHalfRequest(t *testing.T, grace time.Duration) (judged bool) {
	testutil.NoLeaks(t)
	s := serveHTTP(t, answerOK)
	c := talkTo(t, s.ln)
	c.say(question)
	c.hear(false)
	s.inState(t, http.StateIdle)
	c.say(question[:1]) // before the drain
	said, silence := time.Now(), time.Duration(0)
	done := s.startDrain(t, grace)
	var err error
	for i := 1; i < len(question) && err == nil; i++ {
		_, err = io.WriteString(c, question[i:i+1])
		silence, said = max(silence, time.Since(said)), time.Now()
		if i < 6 {
			time.Sleep(grace / 4)
		}
	}
	if err == nil {
		_, err = c.in.Peek(1)
	}
	if silence = max(silence, time.Since(said)); silence > grace*3/4 {
		return false
	}
	if err != nil {
		t.Fatalf("%v, after a silence of %v at most", err, silence)
	}
	c.hear(true)
	c.ends()
	(<-done).is(t, drained{})
	return true
}

// Requests that came together, before the drain, are all answered.
func TestDrainAnswersPipelinedRequests(t *testing.T) {
	testutil.NoLeaks(t)
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	s := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		answerOK(w, r)
	})
	c := talkTo(t, s.ln)
	c.say(question + question)
	<-asked
	const grace = 500 * time.Millisecond // more than there may be between two requests
	done := s.startDrain(t, grace)
	answer <- struct{}{}
	c.hear(false)
	<-asked
	// The second was read with the first, so http.Server does not call the connection active.
	time.Sleep(2 * grace)
	answer <- struct{}{}
	c.hear(true)
	c.ends()
	(<-done).is(t, drained{})
}

func TestDrainWaitsForBody(t *testing.T) {
	testutil.NoLeaks(t)
	asked := make(chan struct{})
	s := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "0123456789" {
			t.Errorf("body %q, %v", body, err)
		}
		answerOK(w, r)
	})
	c := talkTo(t, s.ln)
	c.say("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n01234")
	<-asked
	const grace = 20 * time.Millisecond
	done := s.startDrain(t, grace)
	time.Sleep(3 * grace) // longer than silence may last
	c.say("56789")
	c.hear(false)
	(<-done).is(t, drained{idle: 1})
	c.ends()
}

// A connection that was taken from http.Server still counts.
func TestDrainWaitsForHijacked(t *testing.T) {
	testutil.NoLeaks(t)
	hijacked := make(chan net.Conn, 2)
	s := serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		hijacked <- c
	})
	for range 2 {
		talkTo(t, s.ln).say("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: talk\r\n\r\n")
	}
	first, second := <-hijacked, <-hijacked
	ctx, expire := expiring(t.Context())
	defer expire()
	done := drainInBackground(ctx, t, s.httpDrain, s.ln, time.Millisecond)
	_ = first.Close()
	hasAccepted(t, s.ln, 1)
	expire()
	e := <-done
	var cut *CutError
	if !errors.As(e.err, &cut) || cut.Cut != 1 || e.cut != 1 || !errors.Is(e.err, context.DeadlineExceeded) {
		t.Errorf("%+v", e)
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// expiring returns a context whose deadline passes when expire is called.
func expiring(parent context.Context) (ctx context.Context, expire func()) {
	ctx, expire = context.WithCancel(parent)
	return expired{ctx}, expire
}

type expired struct{ context.Context }

func (e expired) Err() error {
	if e.Context.Err() == nil {
		return nil
	}
	return context.DeadlineExceeded
}

// An upgrade is answered as it is without a drain.
func TestDrainLeavesUpgradesAlone(t *testing.T) {
	testutil.NoLeaks(t)
	s := serveHTTP(t, answerOK)
	c := talkTo(t, s.ln)
	hasAccepted(t, s.ln, 1)
	done := s.startDrain(t, 10*time.Millisecond)
	c.say("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: talk\r\n\r\n")
	c.hear(false)
	c.ends()
	(<-done).is(t, drained{idle: 1})
}

func TestDrainDeadline(t *testing.T) {
	testutil.NoLeaks(t)
	s := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	const clients = 3
	var all []*talker
	for range clients {
		c := talkTo(t, s.ln)
		c.say(question)
		all = append(all, c)
	}
	hasAccepted(t, s.ln, clients)
	s.inStateActive(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	e := <-drainInBackground(ctx, t, s.httpDrain, s.ln, never)
	var cut *CutError
	if !errors.As(e.err, &cut) || cut.Cut != clients || e.drained != (drained{cut: clients}) {
		t.Errorf("%+v, %v", e.drained, e.err)
	}
	for _, c := range all {
		if _, err := c.in.ReadByte(); err == nil {
			t.Error("an answer")
		}
	}
}

func (s *testServer) inStateActive(t *testing.T) {
	t.Helper()
	testutil.Eventually(t, "all requests are in the handler", func() bool {
		for _, c := range s.ln.open() {
			if h := c.served.Load(); h == nil || h.requests.Load() == 0 {
				return false
			}
		}
		return true
	})
}

// One server on several listeners, one of them with TLS.
func TestDrainOfSeveralListeners(t *testing.T) {
	testutil.NoLeaks(t)
	plain, over := newTestListener(t, "tcp", false), newTestListener(t, "unix", false)
	s := serveHTTPOn(t, &http.Server{Handler: http.HandlerFunc(answerOK)}, plain)
	served := make(chan error, 1)
	go func() { served <- s.serve(tls.NewListener(over, certificate(t))) }()
	c := talkTo(t, plain)
	raw := dialTo(t, over)
	secure := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	d := &talker{secure, t, bufio.NewReader(secure)}
	for _, c := range []*talker{c, d} {
		c.say(question)
		c.hear(false)
	}
	pauseNow(t, over)
	done := s.startDrain(t, never)
	<-over.released()
	for _, c := range []*talker{c, d} {
		c.say(question)
		c.hear(true)
	}
	(<-done).is(t, drained{})
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func certificate(t *testing.T) *tls.Config {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Clone()
}

// HTTP/2, with and without TLS: an idle connection is told GOAWAY, at once; a request that is under
// way is answered.
func TestDrainHTTP2(t *testing.T) {
	for name, secure := range map[string]bool{"TLS": true, "plain": false} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			asked, answer := make(chan struct{}), make(chan struct{})
			srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != 2 {
					t.Error(r.Proto)
				}
				if r.URL.Path == "/slow" {
					close(asked)
					<-answer
				}
				answerOK(w, r)
			})}
			srv.Protocols.SetHTTP1(true)
			srv.Protocols.SetUnencryptedHTTP2(!secure)
			srv.Protocols.SetHTTP2(secure)
			l := newTestListener(t, "tcp", false)
			s := serveHTTPWith(t, srv, l, func(d *httpDrain) error {
				if secure {
					srv.TLSConfig = certificate(t)
					return d.serveTLS(l, "", "")
				}
				return d.serve(l)
			})
			quiet := dialTo(t, l)
			if secure {
				quiet = tls.Client(quiet, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			}
			frames := newHTTP2Frames(t, quiet)
			used, busy := newHTTP2Client(t, secure), newHTTP2Client(t, secure)
			url := "http://" + l.Addr().String()
			if secure {
				url = "https://" + l.Addr().String()
			}
			if err := used.ask(url); err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			go func() { answered <- busy.ask(url + "/slow") }()
			<-asked
			done := s.startDrain(t, never)
			frames.until(t, goAwayFrame)
			testutil.Eventually(t, "the idle connections ended", func() bool { return l.count() == 1 })
			close(answer)
			if err := <-answered; err != nil {
				t.Error(err)
			}
			(<-done).is(t, drained{})
		})
	}
}

// An http2Client keeps one connection.
type http2Client struct{ *http.Client }

func newHTTP2Client(t *testing.T, secure bool) http2Client {
	tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	tr.Protocols.SetHTTP2(secure)
	tr.Protocols.SetUnencryptedHTTP2(!secure)
	t.Cleanup(tr.CloseIdleConnections)
	return http2Client{&http.Client{Transport: tr}}
}

func (c http2Client) ask(url string) error {
	r, err := c.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && string(body) != "ok" {
		err = errors.New(string(body))
	}
	return err
}

// http2Frames is a client that says hello, and then nothing.
type http2Frames struct{ net.Conn }

const (
	settingsFrame = 4
	goAwayFrame   = 7
)

func newHTTP2Frames(t *testing.T, c net.Conn) http2Frames {
	t.Helper()
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	f := http2Frames{c}
	f.until(t, settingsFrame)
	return f
}

// until reads until a frame of a type.
func (f http2Frames) until(t *testing.T, want byte) {
	t.Helper()
	for {
		var h [9]byte // length, type, flags, stream (RFC 9113, 4.1)
		if _, err := io.ReadFull(f, h[:]); err != nil {
			t.Fatalf("%v instead of frame %d", err, want)
		}
		if _, err := io.CopyN(io.Discard, f, int64(h[0])<<16|int64(h[1])<<8|int64(h[2])); err != nil {
			t.Fatal(err)
		}
		if h[3] == want {
			return
		}
	}
}

// A lineServer is a plain TCP server: it answers lines until its client says bye.
type lineServer struct{ bye atomic.Bool }

func (s *lineServer) Serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			in := bufio.NewScanner(c)
			for in.Scan() {
				end := s.bye.Load()
				_, _ = fmt.Fprintf(c, "%s %v\n", in.Text(), end)
				if end || in.Text() == "bye" {
					return
				}
			}
		}()
	}
}

// drainingLineServer has its clients told.
type drainingLineServer struct{ lineServer }

func (s *drainingLineServer) Drain(context.Context) error {
	s.bye.Store(true)
	return errors.New("told")
}

func servePlain(t *testing.T, srv Server) (draining, *listener) {
	t.Helper()
	l := newTestListener(t, "tcp", false)
	d := prepare(srv)
	served := make(chan error, 1)
	go func() { served <- d.serve(l) }()
	t.Cleanup(func() {
		_ = l.release()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return d, l
}

func (c *talker) line(want string) {
	c.t.Helper()
	if s, err := c.in.ReadString('\n'); err != nil || s != want+"\n" {
		c.t.Fatalf("%q, %v; want %q", s, err, want)
	}
}

func TestDrainOfPlainServer(t *testing.T) {
	testutil.NoLeaks(t)
	d, l := servePlain(t, &lineServer{})
	c := talkTo(t, l)
	c.say("hello\n")
	c.line("hello false")
	done := drainInBackground(t.Context(), t, d, l, time.Millisecond)
	c.say("still there?\n")
	c.line("still there? false")
	c.say("bye\n")
	c.line("bye false")
	c.ends()
	(<-done).is(t, drained{})
}

func TestDrainOfPlainServerDeadline(t *testing.T) {
	testutil.NoLeaks(t)
	d, l := servePlain(t, &lineServer{})
	c := talkTo(t, l)
	hasAccepted(t, l, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e := <-drainInBackground(ctx, t, d, l, time.Millisecond)
	var cut *CutError
	if !errors.As(e.err, &cut) || cut.Cut != 1 || !strings.Contains(cut.Error(), "1 connection cut") {
		t.Errorf("%+v", e)
	}
	c.ends()
}

func TestDrainOfDrainer(t *testing.T) {
	testutil.NoLeaks(t)
	srv := &drainingLineServer{}
	d, l := servePlain(t, srv)
	c := talkTo(t, l)
	hasAccepted(t, l, 1)
	done := drainInBackground(t.Context(), t, d, l, time.Millisecond)
	testutil.Eventually(t, "the server was told", srv.bye.Load)
	c.say("hello\n")
	c.line("hello true")
	c.ends()
	if e := <-done; e.err == nil || e.err.Error() != "told" || e.drained != (drained{}) {
		t.Errorf("%+v", e)
	}
}

// A server without a successor answers what is in the kernel's queue.
func TestDrainAfterEmpty(t *testing.T) {
	testutil.NoLeaks(t)
	s := serveHTTPOn(t, &http.Server{Handler: http.HandlerFunc(answerOK)}, newTestListener(t, "tcp", true))
	var queued []*talker
	for range 20 {
		c := talkTo(t, s.ln)
		c.say(question)
		queued = append(queued, c)
	}
	if err := s.ln.empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := s.startDrain(t, 50*time.Millisecond)
	for _, c := range queued {
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
	}
	if e := <-done; e.err != nil || e.cut != 0 {
		t.Errorf("%+v", e)
	}
}

// A httpLoad is clients of three kinds that ask as fast as they can, and never twice: on new connections,
// on one that is kept alive, and on one with pauses.
type httpLoad struct {
	addr     string
	answered [3]atomic.Int64
	stopping atomic.Bool
	working  sync.WaitGroup
	failures chan error
}

func startHTTPLoad(addr string, clients int) *httpLoad {
	l := &httpLoad{addr: addr, failures: make(chan error, 1000)}
	for i := range clients {
		l.working.Go(func() {
			var c net.Conn
			var in *bufio.Reader
			defer func() {
				if c != nil {
					_ = c.Close()
				}
			}()
			for n := 0; !l.stopping.Load(); n++ {
				if kind := i % 3; kind == 2 {
					time.Sleep(time.Duration(1+(n*7+i)%9) * time.Millisecond) // think time
				}
				if c != nil && hungUp(c) {
					_ = c.Close()
					c = nil
				}
				more, err := l.ask(i%3, &c, &in)
				if err != nil {
					l.failures <- fmt.Errorf("client %d, request %d: %w", i, n, err)
					more = false
				}
				if !more && c != nil {
					_ = c.Close()
					c = nil
				}
			}
		})
	}
	return l
}

// hungUp reports whether the server has ended a connection on which nothing is expected.
func hungUp(c net.Conn) (ended bool) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ended = err != syscall.EAGAIN
	})
	return ended
}

func (l *httpLoad) ask(kind int, c *net.Conn, in **bufio.Reader) (more bool, err error) {
	if *c == nil {
		if *c, err = net.Dial("tcp", l.addr); err != nil {
			return false, err
		}
		*in = bufio.NewReader(*c)
	}
	_ = (*c).SetDeadline(time.Now().Add(time.Minute))
	q := question
	if kind == 0 {
		q = strings.Replace(q, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
	}
	if _, err := io.WriteString(*c, q); err != nil {
		return false, err
	}
	r, err := http.ReadResponse(*in, nil)
	if err != nil {
		return false, err
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "ok" {
		return false, fmt.Errorf("answer %q, %w", body, err)
	}
	l.answered[kind].Add(1)
	return !r.Close, nil
}

// stop returns the failures.
func (l *httpLoad) stop() (all []error) {
	l.stopping.Store(true)
	l.working.Wait()
	close(l.failures)
	for err := range l.failures {
		all = append(all, err)
	}
	return all
}

// Generations of a server replace each other under load, and nothing is lost.
func TestDrainUnderLoad(t *testing.T) {
	testutil.NoLeaks(t)
	const generations = 20
	handler := http.HandlerFunc(answerOK)
	current := serveHTTPOn(t, &http.Server{Handler: handler}, newTestListener(t, "tcp", false))
	load := startHTTPLoad(current.ln.Addr().String(), 24)
	begin := time.Now()
	answered := func() (n int64) {
		for i := range load.answered {
			n += load.answered[i].Load()
		}
		return n
	}
	rate := func() float64 { return float64(answered()) / time.Since(begin).Seconds() }
	testutil.Eventually(t, "2000 answers", func() bool { return answered() > 2000 })
	alone := rate()
	var idle int
	for range generations {
		next := serveHTTPOn(t, &http.Server{Handler: handler}, copyListener(t, current.ln, true))
		pauseNow(t, current.ln)
		waiting := next.ln.waiting()
		next.ln.resume()
		<-waiting
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		result, err := current.drain(ctx, patient)
		cancel()
		if err != nil {
			t.Error(err)
		}
		idle += result.idle
		current = next
		enough := answered() + 100
		testutil.Eventually(t, "100 answers", func() bool { return answered() > enough })
	}
	took, changing := time.Since(begin), rate()
	for _, err := range load.stop() {
		t.Error(err)
	}
	if changing < alone/100 || idle > 0 {
		t.Errorf("%.0f requests in a second, %.0f without a change of generations, %d closed idle", changing, alone, idle)
	}
	t.Logf("%d, %d and %d answers in %v", load.answered[0].Load(), load.answered[1].Load(), load.answered[2].Load(), took)
}
