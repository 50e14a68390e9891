//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

// goServer is a server behind fdpass. Its argument is a file with what it is to do, one word each, read when
// it starts, so that one generation can differ from the next:
//
//	exit=N     says "bad configuration" and ends with N
//	ready      says READY=1 when it listens
//	silent     does not, whatever happens
//	deaf       does not end at SIGTERM
//	linger     at SIGTERM stops accepting, and ends at SIGINT
//	mute       closes its standard error
//	orphan     starts a process that has lost its parent, and ends soon
//	die=N      ends with N when asked for /die
//	then       what follows is not for this generation: it becomes what the file has
//
// It answers / with its pid, and /hold when the request's body ends.
var goServer = testutil.NewHelper("go server", runGoServer)

func runGoServer(args []string) error {
	said, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	now, next, more := strings.Cut(string(said), " then ")
	if more {
		if err := os.WriteFile(args[0]+".new", []byte(next), 0o600); err != nil {
			return err
		}
		if err := os.Rename(args[0]+".new", args[0]); err != nil {
			return err
		}
	}
	words := map[string]string{}
	for _, w := range strings.Fields(now) {
		name, value, _ := strings.Cut(w, "=")
		words[name] = value
	}
	_, deaf := words["deaf"]
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	if code, ok := words["exit"]; ok {
		fmt.Fprint(os.Stderr, "starting\nbad configuration\n\n")
		n, _ := strconv.Atoi(code)
		os.Exit(n)
	}
	if _, ok := words["mute"]; ok {
		os.Stderr.Close()
	}
	file := os.NewFile(3, "listener")
	ln, err := net.FileListener(file)
	if err != nil {
		return err
	}
	file.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Pid", fmt.Sprint(os.Getpid()))
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, os.Getpid())
	})
	mux.HandleFunc("/die", func(http.ResponseWriter, *http.Request) {
		n, _ := strconv.Atoi(words["die"])
		fmt.Fprintln(os.Stderr, "dying")
		os.Exit(n)
	})
	// http.Server.Shutdown would cut off connections that were accepted and have not spoken yet.
	var open sync.WaitGroup
	srv := &http.Server{Handler: mux, ConnState: func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Done()
		}
	}}
	serving := make(chan error)
	go func() { serving <- srv.Serve(ln) }()
	if _, ok := words["ready"]; ok {
		if err := notify("READY=1\nSTATUS=at your service"); err != nil {
			return err
		}
	}
	if _, ok := words["orphan"]; ok {
		if err := exec.Command("sh", "-c", "sleep 0.1 &").Run(); err != nil {
			return err
		}
	}
	for {
		<-stop
		if !deaf {
			break
		}
	}
	_, linger := words["linger"]
	again := make(chan os.Signal, 1)
	if linger {
		signal.Notify(again, unix.SIGINT) // before its listener is gone, which the test waits for
	}
	ln.Close()
	<-serving
	if linger {
		<-again
	}
	open.Wait() // each client closes after its answer
	return nil
}

func notify(state string) error {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.WriteString(c, state)
	return err
}

// inherited is what a program finds when it starts.
type inherited struct {
	PID, Parent int
	Dir         string
	Environment map[string]string
	FDs         map[int]inheritedFD // sockets
	Links       map[int]string      // all, as /proc shows them
	Blocked     string              // signals, as in /proc
	Ignored     string
}

type inheritedFD struct {
	Address  string
	Nonblock bool
}

// look prints an inherited.
var look = testutil.NewHelper("look", func([]string) error {
	// First, before anything here opens more.
	in := inherited{PID: os.Getpid(), Parent: os.Getppid(), Environment: map[string]string{}, FDs: map[int]inheritedFD{}, Links: map[int]string{}}
	for fd := range 1000 {
		if link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
			in.Links[fd] = link
		}
		sa, err := unix.Getsockname(fd)
		if err == nil {
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			in.FDs[fd] = inheritedFD{Nonblock: flags&unix.O_NONBLOCK != 0}
			switch sa := sa.(type) {
			case *unix.SockaddrInet4:
				in.FDs[fd] = inheritedFD{fmt.Sprintf("%v:%d", net.IP(sa.Addr[:]), sa.Port), flags&unix.O_NONBLOCK != 0}
			case *unix.SockaddrUnix:
				in.FDs[fd] = inheritedFD{sa.Name, flags&unix.O_NONBLOCK != 0}
			}
		}
	}
	in.Dir, _ = os.Getwd()
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		in.Environment[name] = value
	}
	var err error
	if in.Blocked, in.Ignored, err = signalMasks(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(in)
})

// signalMasks returns which signals this process blocks and ignores, as proc(5) writes them.
func signalMasks() (blocked, ignored string, err error) {
	status, err := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if value, ok := strings.CutPrefix(line, "SigBlk:\t"); ok {
			blocked = value
		}
		if value, ok := strings.CutPrefix(line, "SigIgn:\t"); ok {
			ignored = value
		}
	}
	return blocked, ignored, err
}
