package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/supervise"
	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/systemd"
)

// killAfter is how long a program that is stopped has before it is killed.
const killAfter = 10 * time.Second

// endedVariable is what this process tells itself when one of its processes has ended: behind everything that
// the process had said, because it goes the same way.
const endedVariable = "X_FDPASS_ENDED"

// stay is the process that starts the program and hears it until it ends.
func (w *waiting) stay(args []string) error {
	unix.CloseOnExec(w.report)
	report := os.NewFile(uintptr(w.report), "report")
	k := &keeper{waiting: w, name: args[0], report: report, live: map[int]bool{}}
	if err := k.run(args); err != nil {
		k.tell(err)
	}
	return nil
}

// A keeper is the manager of one program.
type keeper struct {
	*waiting
	name   string
	report *os.File // nil when it was told

	listener *systemd.NotifyListener
	cmd      *exec.Cmd
	main     int           // the pid that MAINPID= said, or cmd's
	live     map[int]bool  // main processes that were not seen to end
	stopping atomic.Bool   // by a signal
	pidInfo  os.FileInfo   // of the pid file, nil before it is written
	ended    chan struct{} // closed when cmd has ended
}

// tell says once, to the process that waits, how the start went.
func (k *keeper) tell(err error) {
	if k.report == nil {
		return
	}
	writeReport(k.report, err)
	_ = k.report.Close()
	k.report = nil
}

func (k *keeper) run(args []string) error {
	signals := takeStopSignals() // before there is a folder to take away again
	dir, err := os.MkdirTemp("", "fdpass-")
	if err != nil {
		return errors.WithMessage(err, "a folder for the notification socket, see TMPDIR")
	}
	defer func() { _ = os.Remove(dir) }()
	if err := k.listen(dir); err != nil {
		return err
	}
	defer k.listener.Close()
	defer k.removePID()
	k.cmd = exec.Command(args[0], args[1:]...)
	k.cmd.Stdin, k.cmd.Stdout, k.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := k.cmd.Start(); err != nil {
		return cannotRun(err)
	}
	k.main = k.cmd.Process.Pid
	k.live[k.main] = true
	k.ended = make(chan struct{})
	go func() {
		_ = k.cmd.Wait()
		close(k.ended)
		k.tellEnded(k.cmd.Process.Pid)
	}()
	go func() {
		for range signals {
			k.stopping.Store(true)
			k.stop()
		}
	}()
	if err := letGo(); err != nil {
		k.stop()
		return err
	}
	return k.hear()
}

// listen makes the socket and the environment. Another user may be who the program becomes.
func (k *keeper) listen(dir string) (err error) {
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	path := filepath.Join(dir, "notify")
	if k.listener, err = systemd.ListenNotify(path); err != nil {
		return err
	}
	if err = os.Chmod(path, 0o666); err == nil {
		err = os.Setenv("NOTIFY_SOCKET", path)
	}
	if err != nil {
		_ = k.listener.Close()
	}
	return err
}

// letGo gives up what belongs to whoever started this: a pipe would not end while this process has it.
func letGo() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	raw, err := null.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for std := 0; std <= 2 && err == nil; std++ {
			err = unix.Dup3(int(fd), std, 0)
		}
	})
	if err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chdir("/")
	}
	return err
}

// tellEnded puts the end of a process into the queue.
func (k *keeper) tellEnded(pid int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := systemd.Notify(ctx, systemd.State(endedVariable+"="+strconv.Itoa(pid))); err != nil {
		_ = k.listener.Close() // then nobody could tell any more
	}
}

// hear handles what is said, until the program has ended.
func (k *keeper) hear() error {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if k.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, k.timeout)
	}
	defer func() { cancel() }()
	late := false
	for len(k.live) > 0 {
		n, err := k.listener.Receive(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			late = true
			ctx = context.Background()
			k.stop()
			continue
		}
		if err != nil {
			return err
		}
		before := k.main
		ready := k.handle(n)
		_ = n.Close()
		switch {
		case late:
		case ready && k.report != nil:
			cancel()
			ctx, cancel = context.Background(), func() {}
			err := k.writePID()
			k.tell(err)
			if err != nil {
				k.stop()
			}
		case k.report == nil && k.main != before:
			_ = k.writePID() // nobody waits any more who could hear of an error
		}
	}
	if late {
		return &exitError{exitTimeout, errors.Errorf("%s was not ready in %v", k.name, k.timeout)}
	}
	return k.early()
}

// handle takes a message in and reports whether it says ready.
func (k *keeper) handle(n *systemd.Notification) bool {
	if v, ok := n.State.Get(endedVariable); ok && n.Sender.PID == os.Getpid() {
		pid, _ := strconv.Atoi(v)
		delete(k.live, pid)
		return false
	}
	if !k.believes(n.Sender) {
		return false
	}
	if v, ok := n.State.Get("MAINPID"); ok {
		if pid, err := strconv.Atoi(v); err == nil && pid > 0 {
			k.follow(pid, n.Sender.UID)
		}
	}
	v, _ := n.State.Get("READY")
	return v == "1"
}

// believes reports whether a message may be the program's: of root, of this user, or of the user who the
// program has become.
func (k *keeper) believes(s *credentials.Sender) bool {
	if s.UID == 0 || s.UID == uint32(os.Getuid()) {
		return true
	}
	return slices.Contains(supervise.UsersOf(k.main), s.UID)
}

// follow makes another process the main one. Whoever is not root can name his own only: the pid file is
// what somebody else will signal.
func (k *keeper) follow(pid int, by uint32) {
	if k.live[pid] {
		k.main = pid
		return
	}
	p, err := credentials.OpenProcess(pid)
	if err != nil {
		return // gone by now
	}
	// What is read between two looks at the pidfd is of this process.
	users := supervise.UsersOf(pid)
	foreign := by != 0 && (len(users) == 0 || slices.ContainsFunc(users, func(user uint32) bool { return user != by }))
	if pid == 1 || pid == os.Getpid() || foreign || !p.Alive() {
		_ = p.Close()
		return
	}
	k.main = pid
	k.live[pid] = true
	go func() {
		defer p.Close()
		if p.Wait(context.Background()) == nil {
			k.tellEnded(pid)
		}
	}()
}

// stop ends the program, with SIGKILL if it takes its time.
func (k *keeper) stop() {
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	time.AfterFunc(killAfter, func() {
		select {
		case <-k.ended:
		default:
			_ = k.cmd.Process.Kill()
		}
	})
}

// writePID writes the pid file, whole or not at all.
func (k *keeper) writePID() error {
	if k.pidFile == "" {
		return nil
	}
	// Somebody else may write to the folder: a name that nobody knows before, and no link is followed.
	fresh, err := os.CreateTemp(filepath.Dir(k.pidFile), ".fdpass-")
	if err != nil {
		return err
	}
	_, err = fresh.WriteString(strconv.Itoa(k.main) + "\n")
	if err == nil {
		err = fresh.Chmod(0o644)
	}
	var file os.FileInfo
	if err == nil {
		file, err = fresh.Stat()
	}
	if cerr := fresh.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(fresh.Name(), k.pidFile)
	}
	if err != nil {
		_ = os.Remove(fresh.Name())
		return err
	}
	k.pidInfo = file
	return nil
}

// removePID takes away the pid file that it wrote.
func (k *keeper) removePID() {
	if k.pidInfo == nil {
		return
	}
	// A file system gives the number of a removed inode to the next one.
	if now, err := os.Lstat(k.pidFile); err == nil && os.SameFile(now, k.pidInfo) && now.ModTime().Equal(k.pidInfo.ModTime()) {
		_ = os.Remove(k.pidFile)
	}
}

// early is the error of a program that has ended before it was ready.
func (k *keeper) early() error {
	<-k.ended
	code, how := exitFailed, "with status 0"
	switch status, ok := k.cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case ok && status.Signaled():
		code, how = 128+int(status.Signal()), "by "+unix.SignalName(status.Signal())
	case k.cmd.ProcessState.ExitCode() > 0:
		code = k.cmd.ProcessState.ExitCode()
		how = fmt.Sprintf("with status %d", code)
	}
	if k.stopping.Load() {
		return &exitError{code: code}
	}
	return &exitError{code, errors.Errorf("%s ended %s before it was ready", k.name, how)}
}
