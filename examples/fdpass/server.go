package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/fdkit/fdkit/handoff"
)

// server.go is the part to copy: an HTTP server that is replaced by a new process without one client
// noticing. In mode child it starts its successor itself, on SIGHUP; in mode takeover a successor, started by
// anybody, finds it at a path. On SIGTERM it ends.

const drainTimeout = 10 * time.Second // for all that is under way when it ends

// A server is one generation of the service, and one process.
type server struct {
	generation uint64
	addr       string
	requests   atomic.Int64
}

// ServeHTTP is where your service goes.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	fmt.Fprintf(w, answerFormat, s.generation, os.Getpid(), r.URL.Path)
}

const answerFormat = "generation %d pid %d path %s\n"

// run is the life of a generation. The first one listens on addr, the others get its socket.
func (s *server) run(ctx context.Context, addr string, o handoff.Options) error {
	svc, err := handoff.Start(ctx, o)
	if err != nil {
		return err
	}
	s.generation = svc.Generation()
	ln, err := svc.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.addr = ln.Addr().String()
	failed := make(chan error, 1)
	go func() {
		if err := svc.Serve(&http.Server{Handler: s, ReadHeaderTimeout: drainTimeout}, ln); err != nil {
			failed <- err
		}
	}()
	reached("ready") // for --kill only
	if err := svc.Ready(ctx); err != nil {
		return err
	}
	select {
	case <-svc.Stopping(): // a successor serves, or we were told to stop
	case err := <-failed:
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	return svc.Drain(ctx)
}
