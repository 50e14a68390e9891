//go:build linux

package credentials_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
)

func TestOpenProcess(t *testing.T) {
	testutil.NoLeaks(t)
	child := start(t, peer.Command(t))
	p := open(t, child.pid())
	if p.PID() != child.pid() || !p.Alive() {
		t.Errorf("pid %d, alive %v", p.PID(), p.Alive())
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if p.Alive() || p.ID() != (credentials.ProcessID{}) {
		t.Error("it is closed and says something")
	}
	matches(t, p.Wait(t.Context()), os.ErrClosed)
	matches(t, p.Signal(0), os.ErrClosed)
	_, err := p.Info()
	matches(t, err, os.ErrClosed)
	_, err = p.Exe()
	matches(t, err, os.ErrClosed)

	if err := child.end(); err != nil {
		t.Fatal(err)
	}
	// The pid may have gone to somebody else by now, but to nobody below us.
	if gone, err := credentials.OpenProcess(child.pid()); err == nil {
		gone.Close()
	} else {
		matches(t, err, os.ErrProcessDone, unix.ESRCH)
	}
	_, err = credentials.OpenProcess(0)
	matches(t, err, unix.EINVAL)
	if err := (*credentials.Process)(nil).Close(); err != nil {
		t.Error(err)
	}
}

func TestProcessAtDescriptorLimit(t *testing.T) {
	testutil.NoLeaks(t)
	self := open(t, os.Getpid())
	empty := testutil.FillTable(t, 0)
	_, err := credentials.OpenProcess(os.Getpid())
	werr := self.Wait(t.Context())
	empty()
	for _, err := range []error{err, werr} {
		matches(t, err, unix.EMFILE)
		if err != nil && !strings.Contains(err.Error(), "RLIMIT_NOFILE") {
			t.Errorf("%v does not name the limit", err)
		}
	}
}

func TestNewProcess(t *testing.T) {
	testutil.NoLeaks(t)
	fd := -1
	cmd := peer.Command(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
	child := start(t, cmd)
	if fd < 0 {
		t.Skip("no pidfd from clone(2)")
	}
	p, err := credentials.NewProcess(os.NewFile(uintptr(fd), "pidfd"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.PID() != child.pid() || p.ID() != open(t, child.pid()).ID() {
		t.Errorf("pid %d, ID %v, want pid %d", p.PID(), p.ID(), child.pid())
	}
}

func TestNewProcessOfAnotherFile(t *testing.T) {
	testutil.NoLeaks(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p, err := credentials.NewProcess(r)
	matches(t, err, unix.EBADF)
	if p != nil {
		t.Error("with the error came a process")
	}
	if _, err := r.Stat(); err != nil {
		t.Errorf("the file is not the caller's any more: %v", err)
	}
}

// A pidfd without a pid: its process was reaped before anybody asked.
func TestNewProcessOfReapedProcess(t *testing.T) {
	testutil.NoLeaks(t)
	fd := -1
	cmd := peer.Command(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
	child := start(t, cmd)
	if err := child.end(); err != nil {
		t.Fatal(err)
	}
	p, err := credentials.NewProcess(os.NewFile(uintptr(fd), "pidfd"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_, err = p.Exe()
	matches(t, err, os.ErrProcessDone)
	if p.PID() != 0 || p.Alive() {
		t.Errorf("pid %d, alive %v", p.PID(), p.Alive())
	}
}

func TestProcessWait(t *testing.T) {
	testutil.NoLeaks(t)
	child := start(t, peer.Command(t))
	p := open(t, child.pid())

	before := testutil.Count(t) // not later: whoever ends a Wait may have its descriptor for a moment more
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	matches(t, p.Wait(cancelled), context.Canceled)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := make(chan error)
	go func() { waiting <- p.Wait(ctx) }()
	testutil.Eventually(t, "Wait waits", func() bool { return testutil.Count(t) == before+2 })
	cancel()
	matches(t, <-waiting, context.Canceled)

	deadline, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	matches(t, p.Wait(deadline), context.DeadlineExceeded)

	go func() { waiting <- p.Wait(t.Context()) }()
	testutil.Eventually(t, "Wait waits", func() bool { return testutil.Count(t) == before+2 })
	if err := child.end(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if err := p.Wait(cancelled); err != nil { // it has ended, and that is what was asked
		t.Error(err)
	}
}

// dyingContext ends when somebody waits for its end, and then a child has ended too.
type dyingContext struct {
	context.Context
	child *process
}

func (c dyingContext) Done() <-chan struct{} {
	_ = c.child.end()
	done := make(chan struct{})
	close(done)
	return done
}

func (dyingContext) Err() error { return context.DeadlineExceeded }

// A process that has ended has, though the time to wait for that is over as well, as it may be after a SIGSTOP.
func TestProcessWaitEndsLate(t *testing.T) {
	testutil.NoLeaks(t)
	for range 30 { // the one is seen first, or the other
		child := start(t, peer.Command(t))
		p := open(t, child.pid())
		if err := p.Wait(dyingContext{t.Context(), child}); err != nil {
			t.Fatal(err)
		}
	}
}

// Close is not for the time of a Wait. One that does it all the same gets an error for an answer, and
// nothing is lost.
func TestProcessWaitAndClose(t *testing.T) {
	testutil.NoLeaks(t)
	child := start(t, peer.Command(t))
	p := open(t, child.pid())
	before := testutil.Count(t)
	waiting := make(chan error)
	go func() { waiting <- p.Wait(t.Context()) }()
	testutil.Eventually(t, "Wait waits", func() bool { return testutil.Count(t) == before+2 })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := child.end(); err != nil {
		t.Fatal(err)
	}
	matches(t, <-waiting, os.ErrClosed)
}

// A process that nobody reaped has ended all the same.
func TestProcessThatWasNotReaped(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.Need(t, testutil.PIDFDInfo)
	child := start(t, peer.Command(t))
	p := open(t, child.pid())
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("it is alive")
	}
	matches(t, p.Signal(0), os.ErrProcessDone)
	_, err := p.Exe()
	matches(t, err, os.ErrProcessDone)
	if info, err := p.Info(); err != nil || info.Exited || info.PID != child.pid() {
		t.Errorf("info is %+v, %v", info, err)
	}
	_ = child.end()
	if info, err := p.Info(); err != nil {
		matches(t, err, os.ErrProcessDone)
	} else if !info.Exited || info.Status.Signal() != unix.SIGKILL {
		t.Errorf("info is %+v, want an end by SIGKILL", info)
	}
}

func TestProcessOfAnotherUser(t *testing.T) {
	testutil.NoLeaks(t)
	if os.Geteuid() != 0 { // we are the one that may not
		p := open(t, 1)
		if info, err := p.Info(); err != nil || info.RealUID == uint32(os.Getuid()) {
			t.Skipf("process 1 is not known to be another user's: %v", err)
		}
		matches(t, p.Signal(0), os.ErrPermission)
		_, err := p.Exe()
		matches(t, err, os.ErrPermission)
		return
	}
	child := start(t, peer.CommandAs(t, 4200, 4201, nil))
	child.refuses(unix.EPERM, "signal %d", os.Getpid())
	if info, err := open(t, child.pid()).Info(); err != nil {
		matches(t, err, errors.ErrUnsupported)
	} else if info.RealUID != 4200 || info.SavedUID != 4200 || info.FilesystemUID != 4200 || info.EffectiveGID != 4201 {
		t.Errorf("info is %+v", info)
	}
}

// A process that cannot be seen from here has a pidfd, but no pid and no information.
func TestProcessInAnotherPidNamespace(t *testing.T) {
	needNamespaces(t)
	testutil.NoLeaks(t)
	testutil.Need(t, testutil.PassPIDFD)
	testutil.Need(t, testutil.PIDFDInfo)
	ln, path := listen(t, "unix")
	cmd := blind.Command(t, path)
	isolate(cmd, unix.CLONE_NEWPID)
	var out strings.Builder
	cmd.Stdout = &out
	err := cmd.Start()
	if err != nil {
		t.Fatal(err)
	}
	conn := accept(t, ln)
	p, err := credentials.PeerProcess(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.PID() != cmd.Process.Pid || !p.Alive() {
		t.Errorf("from outside it has pid %d, alive %v, want %d", p.PID(), p.Alive(), cmd.Process.Pid)
	}
	conn.Close()
	if err := cmd.Wait(); err != nil || out.String() != "done" {
		t.Errorf("inside: %v, %q", err, out.String())
	}
}

// blind connects to a process outside its pid namespace.
var blind = testutil.NewHelper("blind", func(args []string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: args[0]})
	if err != nil {
		return err
	}
	defer conn.Close()
	if cred, err := credentials.Peer(conn); err != nil || cred.PID != 0 || cred.UID != uint32(os.Getuid()) || cred.Known() {
		return fmt.Errorf("the peer is %v, %w", cred, err)
	}
	if err := credentials.SameUser().Check(conn); err != nil { // the uid is good
		return err
	}
	p, err := credentials.PeerProcess(conn)
	if err != nil {
		return err
	}
	defer p.Close()
	if p.PID() != 0 || !p.Alive() || p.ID() == (credentials.ProcessID{}) {
		return fmt.Errorf("pid %d, alive %v, ID %v", p.PID(), p.Alive(), p.ID())
	}
	if _, err := p.Info(); !errors.Is(err, unix.EREMOTE) {
		return fmt.Errorf("info: %w", err)
	}
	if _, err := p.Exe(); !errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("exe: %w", err)
	}
	if err := p.Signal(0); !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("signal: %w", err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return err
	}
	fmt.Print("done")
	return nil
})

const lastPid = "/proc/sys/kernel/ns_last_pid"

// A pid namespace of its own has no other processes that take the pid meanwhile.
func TestReusedPid(t *testing.T) {
	needNamespaces(t)
	testutil.NoLeaks(t)
	testutil.Need(t, testutil.PassPIDFD)
	testutil.Need(t, testutil.PIDFDInfo)
	if _, err := os.Stat(lastPid); err != nil {
		t.Skipf("pids cannot be recycled without CONFIG_CHECKPOINT_RESTORE: %v", err)
	}
	again := peer.Command(t)
	cmd := reuse.Command(t, append([]string{filepath.Join(folder(t), "socket"), again.Path}, again.Env[len(os.Environ()):]...)...)
	isolate(cmd, unix.CLONE_NEWPID)
	out, err := cmd.Output()
	if strings.HasPrefix(string(out), "cannot") {
		t.Skipf("inside: %s", out)
	}
	if err != nil || string(out) != "done" {
		t.Errorf("inside: %v, %q", err, out)
	}
}

// reuse lets a peer connect and die, and gives its pid to another process. Its arguments are the
// path, the program of the peer, and its environment.
var reuse = testutil.NewHelper("reuse", func(args []string) error {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: args[0]})
	if err != nil {
		return err
	}
	defer ln.Close()
	for range 10 {
		if err = reuseOne(ln, args); !errors.Is(err, errNotReused) {
			return err
		}
	}
	return err
})

// errNotReused is what a thread of the runtime does that has got the pid: it keeps it.
var errNotReused = errors.New("no process got the pid")

func reuseOne(ln *net.UnixListener, args []string) error {
	start := func() (*exec.Cmd, io.WriteCloser, error) {
		cmd := exec.Command(args[1])
		cmd.Env = append(os.Environ(), args[2:]...)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, nil, err
		}
		return cmd, in, cmd.Start()
	}
	first, in, err := start()
	if err != nil {
		return err
	}
	fmt.Fprintf(in, "dial unix %s\n", args[0])
	conn, err := ln.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	dead, err := credentials.OpenProcess(first.Process.Pid)
	if err != nil {
		return err
	}
	defer dead.Close()
	if err := dead.Signal(unix.SIGKILL); err != nil {
		return err
	}
	_ = first.Wait()

	// The runtime's threads have pids too, so it may take some attempts.
	for range 20 {
		if err := os.WriteFile(lastPid, []byte(strconv.Itoa(dead.PID()-1)), 0); err != nil {
			fmt.Printf("cannot recycle a pid: %v", err) // a container's /proc is read-only
			return nil
		}
		second, in, err := start()
		if err != nil {
			return err
		}
		if second.Process.Pid == dead.PID() {
			err = compareReused(conn, dead)
			_ = in.Close()
			return errors.Join(err, second.Wait())
		}
		_ = in.Close()
		_ = second.Wait()
	}
	return errNotReused
}

func compareReused(conn *net.UnixConn, dead *credentials.Process) error {
	living, err := credentials.OpenProcess(dead.PID())
	if err != nil {
		return err
	}
	defer living.Close()
	if living.PID() != dead.PID() || living.ID() == dead.ID() {
		return fmt.Errorf("pids %d and %d, IDs %v and %v", living.PID(), dead.PID(), living.ID(), dead.ID())
	}
	if dead.Alive() || !living.Alive() {
		return fmt.Errorf("alive: the dead %v, the living %v", dead.Alive(), living.Alive())
	}
	if _, err := dead.Exe(); !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("exe of the dead: %w", err)
	}
	if err := dead.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal to the dead: %w", err)
	}
	p, err := credentials.PeerProcess(conn)
	if errors.Is(err, credentials.ErrPeerGone) { // before Linux 6.16
		fmt.Print("done")
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if p.ID() != dead.ID() || p.Alive() {
		return fmt.Errorf("the peer of the connection is taken for the living: ID %v, alive %v", p.ID(), p.Alive())
	}
	fmt.Print("done")
	return nil
}

// Who connects as an ordinary user and executes a set-user-ID program is root by the time that
// anybody looks at the process. Peer and Policy look at the time of the connection.
func TestSetuidExecAfterConnect(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	testutil.Need(t, testutil.PassPIDFD)
	testutil.Need(t, testutil.PIDFDInfo)
	cmd := peer.CommandAs(t, 4300, 4300, nil)
	program := filepath.Join(folder(t), "setuid")
	b, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	environment := slices.Clone(cmd.Env[len(os.Environ()):])
	child, conn := dialled(t, cmd, "unix")
	p, err := credentials.PeerProcess(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	child.tell("exec %s %s", program, strings.Join(environment, " "))
	testutil.Eventually(t, "it runs the program", func() bool {
		exe, err := p.Exe()
		return err == nil && exe == program
	})
	if self := child.do("self"); !strings.Contains(self, "uid 0") {
		t.Skipf("set-user-ID programs do not work here: %s", self)
	}
	peerIs(t, conn, credentials.Cred{PID: child.pid(), UID: 4300, GID: 4300})
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.EffectiveUID != 0 || info.RealUID != 4300 {
		t.Errorf("info is %+v, want an effective uid 0", info)
	}
	matches(t, credentials.Root().Check(conn), credentials.ErrDenied)
}

// To wait for a process must not change the mode of its pidfd: os.Process waits on the same open file
// description.
func TestProcessWaitLeavesPidfdBlocking(t *testing.T) {
	testutil.NoLeaks(t)
	cmd := peer.Command(t)
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := credentials.NewProcess(os.NewFile(uintptr(pidfd), "pidfd"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the child cannot be waited for any more: %v", err)
	}
}
