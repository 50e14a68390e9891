package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkg/errors"
)

//go:embed c/side.c
var sideSource []byte

// side compiles the C side, once, and returns its path.
var side = sync.OnceValues(func() (string, error) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp("", "fdkit-bench")
	if err != nil {
		return "", err
	}
	leftovers = append(leftovers, folder)
	source, program := filepath.Join(folder, "side.c"), filepath.Join(folder, "side")
	if err := os.WriteFile(source, sideSource, 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command(cc, "-O2", "-pthread", "-o", program, source).CombinedOutput()
	if err != nil {
		return "", errors.WithMessagef(err, "compile the C side: %s", out)
	}
	return program, nil
})

// leftovers are folders to remove at the end.
var leftovers []string

func cleanUp() {
	for _, folder := range leftovers {
		_ = os.RemoveAll(folder)
	}
}

// inC is a process of the C side as a subject.
func inC(name, mode string, args ...int) (subject, error) {
	program, err := side()
	if err != nil {
		return subject{}, err
	}
	cmd := exec.Command(program, mode)
	for _, arg := range args {
		cmd.Args = append(cmd.Args, strconv.Itoa(arg))
	}
	return ordered(name, cmd)
}

// ordered starts a process that reads numbers of operations and answers with nanoseconds.
func ordered(name string, cmd *exec.Cmd) (subject, error) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return subject{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return subject{}, err
	}
	if err := cmd.Start(); err != nil {
		return subject{}, err
	}
	lines := bufio.NewReader(out)
	return subject{
		name: name,
		run: func(n int) (time.Duration, error) {
			if _, err := fmt.Fprintln(in, n); err != nil {
				return 0, err
			}
			line, err := lines.ReadString('\n')
			if err != nil {
				return 0, errors.WithMessage(err, "waiting for the process")
			}
			ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			return time.Duration(ns), err
		},
		close: func() {
			_ = in.Close()
			_, _ = io.Copy(io.Discard, lines)
			_ = cmd.Wait()
		},
	}, nil
}
