//go:build linux

package handoff_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"time"

	"github.com/fdkit/fdkit/handoff"
)

// An echo server is a plain accept loop. What it needs for a drain is Drain, which ends its
// connections after the lines that have come.
type echo struct{ conns sync.Map }

func (e *echo) Serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		e.conns.Store(c, nil)
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintln(c, lines.Text())
			}
			e.conns.Delete(c)
		}()
	}
}

func (e *echo) Drain(context.Context) error {
	for c := range e.conns.Range {
		_ = c.(interface{ CloseRead() error }).CloseRead()
	}
	return nil
}

// silent is a server that does not take part.
type silent struct{ echo *echo }

func (s silent) Serve(ln net.Listener) error { return s.echo.Serve(ln) }

// started returns a service that srv serves, and a client of it.
func started(ctx context.Context, srv handoff.Server) (*handoff.Service, net.Conn) {
	svc, err := handoff.Start(ctx, handoff.Options{Name: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := svc.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go svc.Serve(srv, ln)
	if err := svc.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	return svc, client
}

// A server of connections that have a protocol of their own takes part in the drain.
func ExampleDrainer() {
	ctx := context.Background()
	svc, client := started(ctx, new(echo))
	defer client.Close()
	fmt.Fprintln(client, "hello")
	in := bufio.NewReader(client)
	line, err := in.ReadString('\n')
	fmt.Print(line, err, "\n")

	if err := svc.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("drained:", svc.Drain(ctx))
	// Output:
	// hello
	// <nil>
	// drained: <nil>
}

// A drain that cannot wait any longer cuts what is still open, and says so.
func ExampleCutError() {
	ctx := context.Background()
	svc, client := started(ctx, silent{new(echo)})
	defer client.Close()
	fmt.Fprintln(client, "hello")
	if _, err := bufio.NewReader(client).ReadString('\n'); err != nil {
		log.Fatal(err)
	}
	// And it says nothing more.
	if err := svc.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	err := svc.Drain(ctx)
	var cut *handoff.CutError
	fmt.Println(errors.As(err, &cut) && cut.Cut == 1, errors.Is(err, context.DeadlineExceeded))
	fmt.Println(err)
	// Output:
	// true true
	// handoff: 1 connection cut at the end of the drain: context deadline exceeded
}
