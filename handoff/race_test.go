//go:build linux

package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
)

// inProcess starts the service of c in this process; what it upgrades to is aService.
func inProcess(t *testing.T, c serviceConfig) (svc *Service, addr string) {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SERVICE", string(b))
	t.Setenv("FDKIT_TEST_HELPER", "service")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	svc, err = Start(t.Context(), Options{
		Name: "test", Socket: c.Socket, Program: program, Args: []string{}, StopSignals: []os.Signal{}, Deadlines: c.Deadlines,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("1 " + strconv.Itoa(os.Getpid()) + " /x"))
	})}
	ln, err := svc.Listen("tcp", c.TCP)
	if err != nil {
		t.Fatal(err)
	}
	local, err := svc.Listen("unix", c.Unix)
	if err != nil {
		t.Fatal(err)
	}
	go svc.Serve(srv, ln)
	go svc.Serve(srv, local)
	if err := svc.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return svc, ln.Addr().String()
}

// whoServes asks until somebody answers.
func whoServes(t *testing.T, addr string) (pid int) {
	t.Helper()
	answer, err := ask("tcp", addr)
	f := strings.Fields(answer)
	if err != nil || len(f) != 3 {
		t.Fatalf("nobody serves: %q, %v", answer, err)
	}
	pid, _ = strconv.Atoi(f[1])
	return pid
}

// One of several upgrades that are asked for at once wins, the others are told, and somebody serves at every moment.
func TestUpgradeFromManyPlaces(t *testing.T) {
	testutil.NoLeaks(t)                   // until its child is reaped, too
	testutil.Helper("service").Command(t) // it is used
	c := config(t)
	svc, addr := inProcess(t, c)
	const many = 4
	errs := make([]error, many)
	var asking sync.WaitGroup
	for i := range many {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			errs[i] = svc.Upgrade(ctx)
		})
	}
	asking.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "another successor is taking over") && !strings.Contains(err.Error(), string(HandedOver)):
			t.Errorf("upgrade: %v", err)
		}
	}
	if won != 1 || svc.Reason() != HandedOver {
		t.Errorf("%d upgrades won, and the reason is %q", won, svc.Reason())
	}
	pid := whoServes(t, addr)
	if pid == os.Getpid() {
		t.Error("this process serves")
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	if err := svc.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// Upgrade, a takeover and Stop at once: the service ends in this process for one reason, and if that is a handoff
// somebody serves.
func TestUpgradeTakeoverAndStop(t *testing.T) {
	testutil.NoLeaks(t)
	reasons := map[Reason]int{}
	for round := range 8 {
		c := config(t)
		svc, addr := inProcess(t, c)
		taker := aService.Command(t)
		if err := taker.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- taker.Wait() }()
		upgraded, stopped := make(chan error, 1), make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		go func() { upgraded <- svc.Upgrade(ctx) }()
		go func() {
			time.Sleep(time.Duration(round) * 10 * time.Millisecond) // at different moments of it
			stopped <- svc.Stop(ctx)
		}()
		uerr, serr := <-upgraded, <-stopped
		cancel()
		<-svc.Stopping()
		reason := svc.Reason()
		reasons[reason]++
		if serr != nil {
			t.Errorf("stop: %v", serr)
		}
		if uerr == nil && reason != HandedOver || uerr != nil && !errors.Is(uerr, ErrKept) && !errors.Is(uerr, ErrTookBack) {
			t.Errorf("upgrade: %v; the reason is %q", uerr, reason)
		}
		// The taker takes over, or begins afresh when the path is free, or hears why not.
		switch {
		case reason == HandedOver:
			pid := whoServes(t, addr)
			if pid == os.Getpid() {
				t.Error("this process serves, and has handed over")
			}
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		_ = taker.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("the taker neither serves nor ends")
			_ = taker.Process.Kill()
			<-ended
		}
		if err := svc.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%v", reasons)
}
