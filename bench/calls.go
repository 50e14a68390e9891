package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// runtimeCalls are made by Go's scheduler and its memory, not by what is measured.
var runtimeCalls = map[string]bool{
	"futex": true, "nanosleep": true, "epoll_pwait": true, "sched_yield": true, "madvise": true, "mmap": true,
	"munmap": true, "tgkill": true, "rt_sigreturn": true, "rt_sigaction": true, "rt_sigprocmask": true, "clone3": true,
	"clone": true, "getrandom": true, "set_robust_list": true, "rseq": true, "sigaltstack": true, "total": true,
}

// countCalls returns how many system calls an operation of the command makes, which reads numbers of
// operations from its standard input. strace(1) counts.
func countCalls(cmd func() (*exec.Cmd, error)) (float64, error) {
	few, err := callsOf(cmd, 8)
	if err != nil {
		return 0, err
	}
	const n = 400
	many, err := callsOf(cmd, 8+n)
	if err != nil {
		return 0, err
	}
	return float64(many-few) / n, nil
}

func callsOf(cmd func() (*exec.Cmd, error), n int) (int, error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return 0, err
	}
	inner, err := cmd()
	if err != nil {
		return 0, err
	}
	counted, err := os.CreateTemp("", "fdkit-bench-strace")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(counted.Name()) }()
	defer counted.Close()
	outer := exec.Command(strace, append([]string{"-f", "-c", "-o", counted.Name()}, inner.Args...)...)
	outer.Env = inner.Env
	outer.Stdin = strings.NewReader(fmt.Sprintln(n))
	if out, err := outer.CombinedOutput(); err != nil {
		return 0, errors.WithMessagef(err, "strace: %s", bytes.TrimSpace(out))
	}
	all := 0
	for lines := bufio.NewScanner(counted); lines.Scan(); {
		// % time, seconds, usecs/call, calls, errors if there were some, name
		field := strings.Fields(lines.Text())
		if len(field) < 5 || runtimeCalls[field[len(field)-1]] {
			continue
		}
		if calls, err := strconv.Atoi(field[3]); err == nil {
			all += calls
		}
	}
	return all, nil
}

// addCalls counts the system calls of those that were measured, where an operation is made by one process.
func addCalls(results []Result) error {
	for i := range results {
		r := &results[i]
		if r.Experiment != "pair" && r.Experiment != "peer" || r.Failed != "" {
			continue
		}
		command := func() (*exec.Cmd, error) {
			if !r.InGo {
				program, err := side()
				return exec.Command(program, map[string]string{"pair": "pairs", "peer": "peer"}[r.Experiment], "1", "0"), err
			}
			return job{role: r.Experiment, contender: r.Contender}.command()
		}
		var err error
		if r.Calls, err = countCalls(command); err != nil {
			return err
		}
	}
	return nil
}

// repeat is the role of a process whose system calls are counted: it makes an operation as often as its
// standard input says.
func repeat(name string, subjects []subject, err error) error {
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range subjects {
			if s.close != nil {
				s.close()
			}
		}
	}()
	var n int
	if _, err := fmt.Scan(&n); err != nil {
		return err
	}
	for _, s := range subjects {
		if s.name == name {
			_, err := s.run(n)
			return err
		}
	}
	return errors.New("no such contender")
}
