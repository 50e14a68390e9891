package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
	"github.com/fvbock/endless"
	"github.com/jpillora/overseer"
	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/handoff"
)

// The servers, each as its library's documentation says.

func init() {
	roles["serve"] = func(j job) error {
		i := strings.LastIndexByte(j.contender, ' ')
		name, addr := j.contender[:i], j.contender[i+1:]
		serve, ok := servers[name]
		if !ok {
			return errors.New("no such server")
		}
		return serve(addr)
	}
}

const drainTime = 3 * time.Second // for what is under way when a server ends

var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, answerFormat, 0, os.Getpid(), r.URL.Path)
})

var servers = map[string]func(addr string) error{
	"fdkit, connections move": func(addr string) error { return serveWithHandoff(addr, false) },
	"fdkit, drain only":       func(addr string) error { return serveWithHandoff(addr, true) },
	"tableflip + Shutdown":    serveWithTableflip,
	"overseer": func(addr string) error {
		overseer.Run(overseer.Config{
			Address: addr, TerminateTimeout: drainTime, NoWarn: true,
			Program: func(state overseer.State) { _ = http.Serve(state.Listener, handler) },
		})
		return nil
	},
	"endless": func(addr string) error {
		_ = endless.ListenAndServe(addr, handler) // an error when it was replaced
		return nil
	},
}

func serveWithHandoff(addr string, closeIdle bool) error {
	ctx := context.Background()
	svc, err := handoff.Start(ctx, handoff.Options{
		Name: "bench", UpgradeSignals: []os.Signal{syscall.SIGHUP}, CloseIdle: closeIdle,
		// On a loaded machine a restart is to be slow rather than given up.
		Deadlines: handoff.Deadlines{Hello: restartWait, MaxPause: restartWait, Commit: restartWait, Answer: restartWait},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, nil)), // read if a run ends early
	})
	if err != nil {
		return err
	}
	ln, err := svc.Listen("tcp", addr)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		if err := svc.Serve(&http.Server{Handler: handler}, ln); err != nil {
			failed <- err
		}
	}()
	if err := svc.Ready(ctx); err != nil {
		return err
	}
	select {
	case <-svc.Stopping():
	case err := <-failed:
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	return svc.Drain(ctx)
}

// serveWithTableflip is the example of tableflip's README, but for where it begins to take SIGHUP: before anybody is answered,
// and so before we send one.
func serveWithTableflip(addr string) error {
	upg, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	defer upg.Stop()
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGHUP)
	go func() {
		for range sig {
			if err := upg.Upgrade(); err != nil {
				fmt.Fprintln(os.Stderr, "bench: tableflip:", err)
			}
		}
	}()
	ln, err := upg.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler}
	go func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, "bench: tableflip:", err)
		}
	}()
	if err := upg.Ready(); err != nil {
		return err
	}
	<-upg.Exit()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return srv.Shutdown(ctx)
}
