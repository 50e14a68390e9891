package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
)

// A service is all generations of the server, seen from outside.
type service struct {
	first    *exec.Cmd
	lifeline *os.File             // the generations end when nobody has it open
	events   chan event           // of all generations; closed when all have ended
	current  *credentials.Process // the generation that serves
}

// startService starts the first generation: this program again, in a process group of its own, so
// that Control-C comes to us alone.
func startService(addr string) (*service, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	lines, stdout, err := os.Pipe()
	if err != nil {
		_ = lifeline.Close()
		return nil, err
	}
	defer stdout.Close()

	cmd := exec.Command(program, addr)
	cmd.Env = append(os.Environ(), generationVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = lifeline.Close()
		_ = lines.Close()
		return nil, err
	}
	s := &service{first: cmd, lifeline: lifeline, events: make(chan event)}
	go s.read(lines)
	return s, nil
}

// read makes events of lines until their last writer has ended.
func (s *service) read(lines *os.File) {
	defer close(s.events)
	defer lines.Close()
	for in := bufio.NewScanner(lines); in.Scan(); {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			e = event{Event: in.Text()}
		}
		s.events <- e
	}
}

// follow makes pid the current generation. It has only just begun to serve, so its pid was not
// reused, and pinned it is the same process for good.
func (s *service) follow(pid int) error {
	p, err := credentials.OpenProcess(pid)
	if err != nil {
		return err
	}
	_ = s.current.Close()
	s.current = p
	return nil
}

// upgrade tells the current generation to replace itself, stop tells it to end.
func (s *service) upgrade() error { return s.signal(syscall.SIGHUP) }
func (s *service) stop() error    { return s.signal(syscall.SIGTERM) }

func (s *service) signal(sig syscall.Signal) error {
	if s.current == nil {
		return errors.New("nobody serves")
	}
	return errors.WithMessagef(s.current.Signal(sig), "generation with pid %d", s.current.PID())
}

// close waits until all generations have ended, ends them after a while, and frees everything. It
// returns how the first one ended; the others are children of those before them.
func (s *service) close() error {
	_ = s.lifeline.Close()
	kill := time.AfterFunc(drainTimeout+5*time.Second, func() {
		// The group exists as long as one of its processes, and so its number is not reused.
		_ = syscall.Kill(-s.first.Process.Pid, syscall.SIGKILL)
	})
	defer kill.Stop()
	for range s.events {
	}
	_ = s.current.Close()
	return s.first.Wait()
}

// serverProcess is the main function of a generation.
func serverProcess(generation string) error {
	n, err := strconv.Atoi(generation)
	if err != nil {
		return errors.WithMessage(err, generationVariable)
	}
	addr := ""
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	go func() {
		// The pipe ends when the program that started the first generation does.
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
	return errors.WithMessagef(serve(n, addr), "generation %d", n)
}
