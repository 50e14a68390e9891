package main

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/handoff"
)

// A service is all generations of the server, seen from outside.
type service struct {
	mode     mode
	addr     string
	program  string
	folder   string               // of the socket, and of the order to kill
	stdin    *os.File             // of all generations
	stdout   *os.File             // likewise; closed when none of children is left
	children int                  // that we started and that have not ended
	lifeline *os.File             // they end when nobody has it open
	group    int                  // their process group, which is the first one's pid
	events   chan event           // of all generations; closed when all have ended
	current  *credentials.Process // the generation that serves
}

// startService starts the first generation: this program again, in a process group of its own, so
// that Control-C comes to us alone.
func startService(m mode, addr string) (s *service, err error) {
	s = &service{mode: m, addr: addr, events: make(chan event)}
	if s.program, err = os.Executable(); err != nil {
		return nil, err
	}
	if s.folder, err = os.MkdirTemp("", "fdpass"); err != nil {
		return nil, err
	}
	if s.stdin, s.lifeline, err = os.Pipe(); err != nil {
		s.free()
		return nil, err
	}
	lines, stdout, err := os.Pipe()
	if err != nil {
		s.free()
		return nil, err
	}
	s.stdout = stdout
	if err := s.start(); err != nil {
		s.free()
		_ = lines.Close()
		return nil, err
	}
	go s.read(lines)
	return s, nil
}

// start starts a generation, whose end is an event.
func (s *service) start() error {
	cmd := exec.Command(s.program, s.addr)
	cmd.Env = append(os.Environ(), modeVariable+"="+string(s.mode), folderVariable+"="+s.folder)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.stdin, s.stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: s.group}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.children++
	if s.group == 0 {
		s.group = cmd.Process.Pid
	}
	go func() {
		e := event{Event: eventExited, PID: cmd.Process.Pid}
		if err := cmd.Wait(); err != nil {
			e.Error = err.Error()
		}
		e.At = time.Now()
		_ = json.NewEncoder(s.stdout).Encode(e) // after all that it has said itself
	}()
	return nil
}

// exited notes that a child has ended, which was an event.
func (s *service) exited() {
	if s.children--; s.children == 0 {
		_ = s.stdout.Close()
	}
}

// read makes events of lines until their last writer has ended.
func (s *service) read(lines *os.File) {
	defer close(s.events)
	defer lines.Close()
	for in := bufio.NewScanner(lines); in.Scan(); {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			e = event{Event: handoff.EventKind(in.Text())}
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

// upgrade has the current generation replaced, stop tells it to end.
func (s *service) upgrade() error {
	if s.mode == takeover {
		return s.start()
	}
	return s.signal(syscall.SIGHUP)
}

func (s *service) stop() error { return s.signal(syscall.SIGTERM) }

func (s *service) signal(sig syscall.Signal) error {
	if s.current == nil {
		return errors.New("nobody serves")
	}
	return errors.WithMessagef(s.current.Signal(sig), "generation with pid %d", s.current.PID())
}

// close waits until all generations have ended, ends them after a while, and frees everything. What they
// say meanwhile, hear gets, which calls exited.
func (s *service) close(hear func(event)) {
	_ = s.lifeline.Close()
	kill := time.AfterFunc(drainTimeout+5*time.Second, func() {
		// The group exists as long as one of its processes, and so its number is not reused.
		_ = syscall.Kill(-s.group, syscall.SIGKILL)
	})
	defer kill.Stop()
	for e := range s.events {
		hear(e)
	}
	s.free()
}

func (s *service) free() {
	_ = s.current.Close()
	for _, f := range []*os.File{s.stdin, s.stdout, s.lifeline} {
		_ = f.Close() // nil and closed ones are fine
	}
	_ = os.RemoveAll(s.folder)
}
