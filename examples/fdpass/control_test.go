package main

import (
	"net"
	"net/http"
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

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

// The negative control: generations of a server replace each other in this process, under the load of the
// real clients, with all that package net/http has for it. The clients see what Shutdown loses, so
// they would see it if the service lost something.
func TestShutdownUnderLoad(t *testing.T) {
	testutil.NoLeaks(t)
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := first.(*net.TCPListener)
	serve := func(generation uint64, ln net.Listener) (srv *http.Server, ended chan error) {
		srv, ended = &http.Server{Handler: &server{generation: generation}}, make(chan error, 1)
		go func() { ended <- srv.Serve(ln) }()
		return srv, ended
	}
	srv, ended := serve(1, ln)
	l := startLoad(ln.Addr().String(), "mix", 32)
	for generation := uint64(2); generation <= 201 && l.Failed.Load() == 0; generation++ {
		next := copyListener(t, ln)
		nextSrv, nextEnded := serve(generation, next)
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-ended
		srv, ended, ln = nextSrv, nextEnded, next
		enough := l.Answered.Load() + 200
		testutil.Eventually(t, "200 answers", func() bool { return l.Answered.Load() > enough })
	}
	l.Stop()
	_ = srv.Close()
	<-ended
	failures := l.Failures()
	t.Logf("%d answers, %d failures", l.Answered.Load(), len(failures))
	if len(failures) == 0 {
		t.Error("nothing failed in 200 plain Shutdowns: the clients do not notice")
	}
	for _, f := range failures {
		t.Log(f)
	}
}
