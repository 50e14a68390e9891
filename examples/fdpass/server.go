package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// server.go, handover.go, drain.go and gate.go are the part to copy: an HTTP server that replaces
// itself by a new process on SIGHUP and ends on SIGTERM. What happens to it, it says in lines of
// JSON on its standard output, which its successors inherit.

const (
	handOverTimeout = 10 * time.Second       // for a successor to become ready
	pauseTimeout    = 2 * time.Second        // for it to serve then, while nobody accepts
	idleGrace       = 500 * time.Millisecond // for a kept-alive client to send its next request
	drainTimeout    = 10 * time.Second       // for all that is under way
)

// A server is one generation of the service, and one process.
type server struct {
	generation int
	ln         *net.TCPListener
	drainer    *drainer
	requests   atomic.Int64
}

// ServeHTTP is where your service goes.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	fmt.Fprintf(w, answerFormat, s.generation, os.Getpid(), r.URL.Path)
}

const answerFormat = "generation %d pid %d path %s\n"

// serve is the life of a generation. The first one listens on addr, the others inherit.
func serve(generation int, addr string) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	// The path, not /proc/self/exe: that stays the old program when a new one is installed.
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s := &server{generation: generation}
	if generation == 1 {
		err = s.listen(addr)
	} else {
		err = s.takeOver()
	}
	if err != nil {
		return err
	}
	s.say(event{Event: serving, Addr: s.ln.Addr().String()})

	for handedOver := false; !handedOver; {
		if <-signals == syscall.SIGTERM {
			s.drainer.gate.empty()
			break
		}
		pause, err := s.handOver(program)
		if handedOver = err == nil; handedOver {
			s.say(event{Event: handed, Pause: pause})
		} else {
			s.say(event{Event: failed, Error: err.Error()})
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	start := time.Now()
	left, err := s.drainer.drain(ctx, idleGrace)
	s.say(event{Event: ended, Requests: s.requests.Load(), Drain: time.Since(start), Idle: left.idle, Cut: left.cut})
	return err
}

func (s *server) listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.prepare(ln.(*net.TCPListener))
	go s.run()
	return nil
}

// prepare makes all that is needed to serve ln, and takes it over.
func (s *server) prepare(ln *net.TCPListener) {
	s.ln = ln
	s.drainer = newDrainer(&http.Server{Handler: s, ReadHeaderTimeout: drainTimeout}, ln)
}

func (s *server) run() {
	if err := s.drainer.serve(); err != nil {
		fmt.Fprintln(os.Stderr, "fdpass: serve:", err)
		os.Exit(1)
	}
}

// An event is a line on standard output.
type event struct {
	Event      string
	Generation int
	PID        int
	Addr       string        `json:",omitempty"` // serving
	Pause      time.Duration `json:",omitempty"` // handed over: so long nobody accepted
	Error      string        `json:",omitempty"` // failed: the successor; this generation serves on
	Requests   int64         `json:",omitempty"` // ended: so many were served
	Drain      time.Duration `json:",omitempty"` // ended: so long the last ones took
	Idle, Cut  int           `json:",omitempty"` // ended: see drained
}

const (
	serving = "serving"
	handed  = "handed over"
	failed  = "failed"
	ended   = "ended"
)

func (s *server) say(e event) {
	e.Generation, e.PID = s.generation, os.Getpid()
	_ = json.NewEncoder(os.Stdout).Encode(e) // one write(2), so lines of two generations do not mix
}
