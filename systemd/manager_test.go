//go:build linux

package systemd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/internal/testutil/systemdtest"
	"github.com/fdkit/fdkit/systemd"
)

// managed is a service that does what it is told over the socket "control" of its unit.
var managed = testutil.NewHelper("managed", func([]string) error {
	files, err := systemd.Inherited()
	if err != nil {
		return err
	}
	control := files.Named("control")
	if len(control) != 1 {
		return fmt.Errorf("%d sockets called control", len(control))
	}
	ln, err := control[0].TakeListener()
	if err != nil {
		return err
	}
	s := &service{ln: ln.(*net.UnixListener), files: files}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := systemd.Notify(ctx, systemd.Ready, systemd.Status("serving")); err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err
		}
		answer, err := s.do(ctx, strings.Fields(line))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Fprintln(c, answer)
		c.Close()
		if s.leave {
			return nil
		}
	}
})

type service struct {
	ln    *net.UnixListener
	files systemd.Files
	leave bool
}

func (s *service) do(ctx context.Context, args []string) (string, error) {
	var err error
	told := true
	switch args[0] {
	case "show":
		return s.show()
	case "tell":
		var states []systemd.State
		for _, a := range args[1:] {
			states = append(states, systemd.State(a))
		}
		told, err = systemd.Notify(ctx, states...)
	case "reloading":
		told, err = systemd.Notify(ctx, systemd.Reloading())
	case "watchdog":
		d, err := systemd.WatchdogInterval()
		return d.String(), err
	case "state":
		var f *os.File
		if f, err = systemd.Sealed("state", []byte(args[2])); err == nil {
			told, err = systemd.Store(ctx, args[1], []syscall.Conn{f})
			f.Close()
		}
	case "many":
		n, _ := strconv.Atoi(args[2])
		var files []syscall.Conn
		for i := range n {
			f, err := systemd.Sealed("item", []byte(strconv.Itoa(i)))
			if err != nil {
				return "", err
			}
			defer f.Close()
			files = append(files, f)
		}
		told, err = systemd.Store(ctx, args[1], files)
	case "hungup":
		var r, w *os.File
		if r, w, err = os.Pipe(); err == nil {
			w.Close()
			var states []systemd.State
			for _, a := range args[2:] {
				states = append(states, systemd.State(a))
			}
			told, err = systemd.Store(ctx, args[1], []syscall.Conn{r}, states...)
			r.Close()
		}
	case "remove":
		told, err = systemd.Remove(ctx, args[1])
	case "successor":
		return s.successor(ctx)
	case "die":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if err != nil || !told {
		return "", fmt.Errorf("told %v, %w", told, err)
	}
	// What the manager has read it has done when it lets us through.
	if _, err := systemd.Barrier(ctx); err != nil {
		return "", err
	}
	return "done", nil
}

// show returns the names, and what sealed files of that name say.
func (s *service) show() (string, error) {
	var shown []string
	for _, f := range s.files {
		content, err := systemd.ReadSealed(f, 100)
		if err == nil {
			shown = append(shown, f.Name+"="+string(content))
		} else {
			shown = append(shown, f.Name)
		}
	}
	slices.Sort(shown)
	return strconv.Itoa(os.Getpid()) + " " + strings.Join(shown, " "), nil
}

// successor starts the next process, makes it the main one, and leaves.
func (s *service) successor(ctx context.Context) (string, error) {
	testutil.Helper("managed").Inherit()
	cmd := exec.Command("/proc/self/exe")
	cmd.Stderr = os.Stderr
	if err := systemd.Start(cmd, systemd.Named{Name: "control", Conn: s.ln}); err != nil {
		return "", err
	}
	if _, err := systemd.Notify(ctx, systemd.MainPID(cmd.Process.Pid)); err != nil {
		return "", err
	}
	if _, err := systemd.Barrier(ctx); err != nil {
		return "", err
	}
	s.leave = true
	return strconv.Itoa(cmd.Process.Pid), nil
}

const socketUnit = `[Unit]
DefaultDependencies=no
[Socket]
ListenStream=%s
FileDescriptorName=%s
`

func TestManager(t *testing.T) {
	testutil.NoLeaks(t)
	m := systemdtest.Start(t)
	path := filepath.Join(m.Dir, "control")
	m.Install(t, "service.socket", fmt.Sprintf(socketUnit, path, "control"))
	m.Install(t, "service.service", m.Service("service", managed.Command(t),
		"Type=notify", "NotifyAccess=all", "FileDescriptorStoreMax=500", "Restart=on-failure", "RestartSec=10ms", "WatchdogSec=1h"))
	defer func() {
		if t.Failed() {
			t.Logf("the service said:\n%s", m.Log(t, "service"))
		}
	}()
	m.Systemctl(t, "start", "service.socket")
	tell := func(words ...string) string {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintln(c, strings.Join(words, " "))
		answer, err := bufio.NewReader(c).ReadString('\n')
		if err != nil && words[0] != "die" {
			t.Fatalf("%v: %v", words, err)
		}
		return strings.TrimSpace(answer)
	}
	done := func(words ...string) {
		t.Helper()
		if answer := tell(words...); answer != "done" {
			t.Fatalf("%v: %s", words, answer)
		}
	}
	show := func(property, want string) {
		t.Helper()
		if have := m.Show(t, "service.service", property); have != want {
			t.Errorf("%s is %q, not %q", property, have, want)
		}
	}

	// The first client starts it, with the socket of the unit.
	pid, names, _ := strings.Cut(tell("show"), " ")
	if names != "control" {
		t.Errorf("it got %q", names)
	}
	show("ActiveState", "active")
	show("MainPID", pid)
	show("StatusText", "serving")

	// It is told what happens.
	if d := tell("watchdog"); d != "1h0m0s" {
		t.Errorf("the watchdog's interval is %s", d)
	}
	done("tell", string(systemd.Status("busy")), string(systemd.Errno(syscall.EBUSY)), string(systemd.Watchdog))
	show("StatusText", "busy")
	show("StatusErrno", strconv.Itoa(int(syscall.EBUSY)))
	done("reloading")
	show("ActiveState", "reloading")
	done("tell", string(systemd.Ready))
	show("ActiveState", "active")

	// It keeps what the service leaves.
	done("state", "state", "41-sessions")
	done("many", "item", "400")
	show("NFileDescriptorStore", "401")
	done("state", "state", "42-sessions")
	show("NFileDescriptorStore", "402")
	done("remove", "item")
	show("NFileDescriptorStore", "2")
	done("hungup", "lost") // taken, and thrown out again when the manager hears of it
	m.Await(t, "service.service", "NFileDescriptorStore", "2")
	done("hungup", "kept", string(systemd.Unwatched))
	show("NFileDescriptorStore", "3")

	// A crash: the next process has the socket and all that was stored.
	tell("die")
	next, names, _ := strings.Cut(tell("show"), " ") // waits in the socket's queue
	if names != "control kept state=41-sessions state=42-sessions" || next == pid {
		t.Errorf("process %s after %s got %q", next, pid, names)
	}
	show("MainPID", next)
	show("NRestarts", "1")

	// The main process moves, three times, and the unit knows no other moment than an active one.
	since := m.Show(t, "service.service", "ActiveEnterTimestampMonotonic")
	for range 3 {
		successor := tell("successor")
		if _, err := strconv.Atoi(successor); err != nil {
			t.Fatal(successor)
		}
		got, names, _ := strings.Cut(tell("show"), " ")
		if got != successor || names != "control" {
			t.Errorf("process %s with %q answers, not %s", got, names, successor)
		}
		show("MainPID", successor)
		show("ActiveState", "active")
	}
	show("ActiveEnterTimestampMonotonic", since)
	show("NRestarts", "1")

	// And ends as a unit ends.
	main := m.HostPID(t, m.Show(t, "service.service", "MainPID"))
	if main == 0 {
		t.Error("the main process is not there")
	}
	m.Systemctl(t, "stop", "service.service")
	show("MainPID", "0")
	// The manager does not wait for one that was not its child when it became the main process: it has killed it, no more.
	testutil.Eventually(t, "the main process has ended", func() bool { return errors.Is(syscall.Kill(main, 0), syscall.ESRCH) })
}

// Each kind of socket that a unit can have, and one process for each connection.
func TestManagerSockets(t *testing.T) {
	testutil.NoLeaks(t)
	m := systemdtest.Start(t)
	listeners := `[Unit]
DefaultDependencies=no
[Socket]
ListenStream=%[1]s/stream
ListenSequentialPacket=%[1]s/packets
ListenDatagram=%[1]s/datagrams
ListenFIFO=%[1]s/fifo
ListenStream=@%[1]s/abstract
`
	m.Install(t, "kinds.socket", fmt.Sprintf(listeners, m.Dir))
	m.Install(t, "kinds.service", m.Service("kinds", showInherited.Command(t),
		"Type=oneshot", "StandardOutput=truncate:"+filepath.Join(m.Dir, "kinds.out")))
	m.Systemctl(t, "start", "kinds.socket")
	m.Systemctl(t, "start", "kinds.service")
	b, err := os.ReadFile(filepath.Join(m.Dir, "kinds.out"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"kinds.socket: socket SOCK_STREAM listening true " + m.Dir + "/stream, close-on-exec\n",
		"kinds.socket: socket SOCK_SEQPACKET listening true " + m.Dir + "/packets, close-on-exec\n",
		"kinds.socket: socket SOCK_DGRAM listening false " + m.Dir + "/datagrams, close-on-exec\n",
		"kinds.socket: pipe, close-on-exec\n",
		"kinds.socket: socket SOCK_STREAM listening true @" + m.Dir + "/abstract, close-on-exec\n",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s%s", want, b, m.Log(t, "kinds"))
		}
	}

	path := filepath.Join(m.Dir, "accept")
	m.Install(t, "each.socket", fmt.Sprintf(socketUnit, path, "")+"Accept=yes\n")
	m.Install(t, "each@.service", m.Service("each", serveInherited.Command(t)))
	m.Systemctl(t, "start", "each.socket")
	for range 3 {
		if got := ask(t, "unix", path); got != "hello from connection" {
			t.Errorf("%q\n%s", got, m.Log(t, "each"))
		}
	}
}
