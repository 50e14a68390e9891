//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/internal/testutil/systemdtest"
	"github.com/fdkit/fdkit/systemd"
)

// listenNotify is a manager for programs that the test starts.
func listenNotify(t *testing.T) *systemd.NotifyListener {
	t.Helper()
	l, err := systemd.ListenNotify(filepath.Join(testutil.ShortDir(t), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", l.Addr())
	return l
}

// program returns a command that ends within five minutes, in a folder of the test's, with fdpass in its PATH.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	if name == "fdpass" {
		name = binary(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary(t))+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
	cmd.Dir = t.TempDir()
	cmd.Stderr = os.Stderr
	return cmd
}

// heard runs cmd and returns what the manager hears meanwhile.
func heard(t *testing.T, l *systemd.NotifyListener, cmd *exec.Cmd) (all []*systemd.Notification) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		cancel()
	}()
	for {
		n, err := l.Receive(ctx)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		all = append(all, n)
	}
	if err := <-ended; err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return all
}

func TestNotify(t *testing.T) {
	testutil.NoLeaks(t)
	l := listenNotify(t)
	cmd := program(t, "fdpass", "notify", "--timeout", "1m", "--ready", "--status", "it works", "--pid=4711", "X_MINE=a=b")
	all := heard(t, l, cmd)
	if len(all) != 1 || all[0].State != "READY=1\nSTATUS=it works\nMAINPID=4711\nX_MINE=a=b" {
		t.Fatalf("%+v", all)
	}
	// In our name, for which one has to be root, and of this machine.
	want := cmd.Process.Pid
	if testutil.MayForge(t) {
		want = os.Getpid()
	}
	if all[0].Sender.PID != want {
		t.Errorf("from process %d, not %d", all[0].Sender.PID, want)
	}
	all = heard(t, l, program(t, "fdpass", "notify", "--timeout", "1m", "--pid"))
	if len(all) != 1 || !strings.HasPrefix(string(all[0].State), "MAINPID="+strconv.Itoa(os.Getpid())) {
		t.Errorf("%+v", all)
	}
	all = heard(t, l, program(t, "fdpass", "notify", "--timeout", "1m", "--reloading", "--stopping"))
	if _, timed := all[0].State.Get("MONOTONIC_USEC"); !timed || !strings.HasSuffix(string(all[0].State), "\nSTOPPING=1") {
		t.Errorf("%q", all[0].State)
	}
	if all = heard(t, l, program(t, "fdpass", "notify", "--timeout", "1m", "--barrier")); len(all) != 0 {
		t.Errorf("a barrier alone says %q", all[0].State)
	}
}

func TestNotifyStore(t *testing.T) {
	testutil.NoLeaks(t)
	l := listenNotify(t)
	state, err := systemd.Sealed("state", []byte("42 sessions"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	cmd := program(t, "fdpass", "notify", "--timeout", "1m", "--fd", "3,4", "--fd=3", "--fdname", "state", "FDPOLL=0")
	cmd.ExtraFiles = []*os.File{state, state}
	all := heard(t, l, cmd)
	if len(all) != 1 || all[0].State != "FDSTORE=1\nFDNAME=state\nFDPOLL=0" || all[0].Files.Len() != 3 {
		t.Fatalf("%+v", all)
	}
	for i := range 3 {
		if b, err := systemd.ReadSealed(all[0].Files.Lend(i), 100); string(b) != "42 sessions" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// A real manager, which believes the main process only: that is the shell.
func TestNotifyManager(t *testing.T) {
	testutil.NoLeaks(t)
	m := systemdtest.Start(t)
	path := binary(t)
	cmd := exec.Command("/bin/sh", "-c", path+" notify --ready --status 'it works' && "+
		path+" notify --reloading && "+path+" notify --ready --status reloaded && exec sleep 600")
	m.Install(t, "shell.service", m.Service("shell", cmd, "Type=notify", "NotifyAccess=main"))
	m.Systemctl(t, "start", "shell.service")
	m.Await(t, "shell.service", "StatusText", "reloaded")
	m.Await(t, "shell.service", "ActiveState", "active")
	if t.Failed() {
		t.Log(m.Log(t, "shell"))
	}
}

func TestWaitReady(t *testing.T) {
	testutil.NoLeaks(t)
	for _, c := range []struct{ what, script string }{
		{"fdpass", "fdpass notify --ready"},
		{"systemd-notify", "systemd-notify --ready"},
		{"python", `python3 -c "
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'STATUS=soon', os.environ['NOTIFY_SOCKET'])
s.sendto(b'X=1\nREADY=1\n', os.environ['NOTIFY_SOCKET'])"`},
	} {
		t.Run(c.what, func(t *testing.T) {
			testutil.NeedProgram(t, strings.ReplaceAll(strings.Fields(c.script)[0], "fdpass", "sh"))
			cmd := program(t, "fdpass", "wait-ready", "--pid-file", "pid", "--", "sh", "-c",
				"exec >/dev/null 2>&1; "+c.script+" && : >through; until [ -e stop ]; do sleep 0.01; done; fdpass notify --stopping && : >stopped")
			var out bytes.Buffer // a pipe, which must end although the program goes on
			cmd.Stdout, cmd.Stderr = &out, &out
			begin := time.Now()
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			t.Logf("ready and let go in %v", time.Since(begin))
			pid := pidIn(t, filepath.Join(cmd.Dir, "pid"))
			if err := syscall.Kill(pid, 0); err != nil {
				t.Fatalf("process %d: %v", pid, err)
			}
			// The barrier, and what it says when nobody waits any more.
			appears(t, filepath.Join(cmd.Dir, "through"))
			if err := os.WriteFile(filepath.Join(cmd.Dir, "stop"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			appears(t, filepath.Join(cmd.Dir, "stopped"))
			testutil.Eventually(t, "the pid file is gone", func() bool {
				_, err := os.Lstat(filepath.Join(cmd.Dir, "pid"))
				return errors.Is(err, os.ErrNotExist)
			})
			nothingLeft(t, cmd.Dir)
		})
	}
}

func pidIn(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func appears(t *testing.T, path string) {
	t.Helper()
	testutil.Eventually(t, path+" is there", func() bool { _, err := os.Lstat(path); return err == nil })
}

// nothingLeft waits until no process has to do with dir: as its folder, or in its command line.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	testutil.Eventually(t, "nobody is left", func() bool {
		procs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range procs {
			cwd, _ := os.Readlink(p + "/cwd")
			line, _ := os.ReadFile(p + "/cmdline")
			if cwd == dir || strings.Contains(string(line), dir) {
				return false
			}
		}
		return true
	})
}

// It is stopped as its parent is: by a signal, by its time, by its own end.
func TestWaitReadyStopped(t *testing.T) {
	testutil.NoLeaks(t)
	for _, sig := range stopSignals {
		cmd := program(t, "fdpass", "wait-ready", "--", "sh", "-c", "trap 'exit 7' TERM; : >started; while :; do sleep 0.01; done")
		// A child of who catches a signal has its default: under nohup(1) it would ignore it.
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, sig)
		err := cmd.Start()
		signal.Stop(caught)
		if err != nil {
			t.Fatal(err)
		}
		appears(t, filepath.Join(cmd.Dir, "started"))
		cmd.Process.Signal(sig)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 7 {
			t.Errorf("after %v: status %d", sig, code)
		}
		nothingLeft(t, cmd.Dir)
	}
}

// A hangup that is ignored, as nohup(1) has it, is ignored by whoever is there: the one who waits, the one who stays beside
// the program, the program.
func TestWaitReadyHangup(t *testing.T) {
	testutil.NoLeaks(t)
	cmd := program(t, "sh", "-c", `trap "" HUP; exec fdpass wait-ready -- sh -c 'grep SigIgn /proc/$$/status /proc/$PPID/status \
		/proc/$(cut -d" " -f4 /proc/$PPID/stat)/status >ignored; fdpass notify --ready'`)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(cmd.Dir, "ignored"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range lines {
		if mask, err := strconv.ParseUint(line[strings.LastIndexByte(line, '\t')+1:], 16, 64); err != nil || mask&1 == 0 {
			t.Errorf("%q: %v", line, err)
		}
	}
	if len(lines) != 3 {
		t.Errorf("%d processes: %q", len(lines), lines)
	}
	nothingLeft(t, cmd.Dir)
}

// The main process moves, as a handoff does it, before and after it is ready.
func TestWaitReadyMainPID(t *testing.T) {
	testutil.NoLeaks(t)
	for _, order := range []string{
		"fdpass notify --pid=$! && fdpass notify --ready",
		"fdpass notify --ready && fdpass notify --pid=$!",
		"fdpass notify --ready --pid=$!",
	} {
		cmd := program(t, "fdpass", "wait-ready", "--pid-file", "pid", "--", "sh", "-c",
			"(until [ -e stop ]; do sleep 0.01; done; fdpass notify --stopping && : >heard) & "+order+" && echo $! >main")
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", order, err)
		}
		appears(t, filepath.Join(cmd.Dir, "main"))
		var pid int
		testutil.Eventually(t, "the new pid is whole", func() bool {
			b, _ := os.ReadFile(filepath.Join(cmd.Dir, "main"))
			pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
			return strings.HasSuffix(string(b), "\n")
		})
		testutil.Eventually(t, "the pid file moves", func() bool { return pidIn(t, filepath.Join(cmd.Dir, "pid")) == pid })
		// The first process has ended or is about to; the second is still heard.
		if err := os.WriteFile(filepath.Join(cmd.Dir, "stop"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		appears(t, filepath.Join(cmd.Dir, "heard"))
		nothingLeft(t, cmd.Dir)
	}
}

// READY=1 counts also if its sender has ended when it is read.
func TestWaitReadyEndsAtOnce(t *testing.T) {
	testutil.NoLeaks(t)
	for range 20 {
		cmd := program(t, "fdpass", "wait-ready", "--", "fdpass", "notify", "--no-block", "--pid=self", "--ready")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// Another user does not make it ready; the one that the program becomes does.
func TestWaitReadyUsers(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	testutil.NeedProgram(t, "setpriv")
	const as = "setpriv --reuid %d --regid %[1]d --clear-groups"
	tell := binary(t) + " notify --ready --no-block"
	for limit := time.Second; ; limit *= 2 { // until he has said it in time
		stranger := program(t, "fdpass", "wait-ready", "--timeout", limit.String(), "--", "sh", "-c",
			fmt.Sprintf(as, 4343)+" "+tell+" && : >told; exec sleep 600")
		err := stranger.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitTimeout {
			t.Errorf("a stranger made it ready: %v", err)
		}
		nothingLeft(t, stranger.Dir)
		if _, err := os.Lstat(filepath.Join(stranger.Dir, "told")); err == nil {
			break
		}
		if limit > time.Minute {
			t.Fatalf("he did not try in %v", limit)
		}
	}

	public := testutil.PublicDir(t, 0o755)
	own := program(t, "fdpass", append([]string{"wait-ready", "--timeout", "5m", "--"},
		append(strings.Fields(fmt.Sprintf(as, 4343)), "sh", "-c", tell+"; until [ -e "+public+"/stop ]; do sleep 0.01; done")...)...)
	own.Dir = "/"
	if err := own.Run(); err != nil {
		t.Errorf("the user who it became: %v", err)
	}
	if err := os.WriteFile(filepath.Join(public, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, public)

	// He does not get another user's process into the file of those that will be signalled.
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	swap := program(t, "fdpass", append([]string{"wait-ready", "--timeout", "5m", "--pid-file", pidFile, "--"},
		append(strings.Fields(fmt.Sprintf(as, 4343)), "sh", "-c",
			binary(t)+" notify --no-block --ready --pid="+strconv.Itoa(os.Getpid())+"; exec sleep 600")...)...)
	swap.Dir = "/"
	if err := swap.Run(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, pidFile)
	if pid == os.Getpid() {
		t.Fatal("the pid file names a process of root's")
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	nothingLeft(t, pidFile)
}

// Descriptors that it was started with are the program's, under their numbers.
func TestWaitReadyInherits(t *testing.T) {
	testutil.NoLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := program(t, "fdpass", "wait-ready", "--", "sh", "-c", "echo here >&5; fdpass notify --ready --pid=$$")
	cmd.ExtraFiles = []*os.File{nil, nil, w}
	err = cmd.Run()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "here\n" { // it ends: the process that stays does not keep it
		t.Errorf("%q, %v", b, err)
	}
}
