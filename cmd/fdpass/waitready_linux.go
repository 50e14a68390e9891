package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// wait starts the process that stays and hears from it how the start went.
func (w *waiting) wait(args []string) error {
	if _, err := exec.LookPath(args[0]); err != nil {
		return cannotRun(err)
	}
	r, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// It keeps its number there: 3 and the like may be descriptors of COMMAND's.
	number, err := inheritable(report)
	if err != nil {
		_ = report.Close()
		return err
	}
	pidFile := w.pidFile
	if pidFile != "" {
		if pidFile, err = filepath.Abs(pidFile); err != nil {
			_ = report.Close()
			return err
		}
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"wait-ready", "--report", strconv.Itoa(number),
		"--timeout", w.timeout.String(), "--pid-file", pidFile, "--"}, args...)...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Before there is anything to stop: who ended by a signal would leave the other process and the program behind.
	signals := takeStopSignals()
	err = cmd.Start()
	_ = report.Close()
	if err != nil {
		return err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	return readReport(r)
}

// inheritable lets children inherit a descriptor under its number.
func inheritable(f *os.File) (number int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		number = int(fd)
		_, err = unix.FcntlInt(fd, unix.F_SETFD, 0)
	}); cerr != nil {
		return 0, cerr
	}
	return number, os.NewSyscallError("fcntl", err)
}

// A report is one line: "ready", or the code to end with and what to tell.
const reportReady = "ready\n"

func writeReport(w io.Writer, err error) {
	if err == nil {
		_, _ = io.WriteString(w, reportReady)
		return
	}
	var told strings.Builder
	code := exitCode(&told, err)
	message := strings.TrimPrefix(strings.TrimSpace(told.String()), "fdpass: ")
	_, _ = fmt.Fprintf(w, "%d %s\n", code, strings.ReplaceAll(message, "\n", " "))
}

func readReport(r io.Reader) error {
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return errors.New("the process that was to stay beside the program has ended")
	}
	if line == reportReady {
		return nil
	}
	number, message, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	code, err := strconv.Atoi(number)
	if err != nil {
		return errors.Errorf("unexpected report %q", line)
	}
	if message == "" {
		return &exitError{code: code}
	}
	return &exitError{code, errors.New(message)}
}
