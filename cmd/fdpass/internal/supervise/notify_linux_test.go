package supervise

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func FuzzNotification(f *testing.F) {
	for _, seed := range []string{
		"READY=1", "READY=1\nSTATUS=Gunicorn arbiter booted", "READY=1\nMAINPID=71\n", "BARRIER=1", "EXTEND_TIMEOUT_USEC=30000000",
		"EXTEND_TIMEOUT_USEC=18446744073709551615", "RELOADING=1\nMONOTONIC_USEC=4711", "READY=0", "", "\x00", "STATUS=\x1b[2J\xff", "=\n=",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := parseNotification(data)
		if m.extend < 0 || m.extend > longest {
			t.Errorf("extends by %v", m.extend)
		}
		if m.ready != strings.Contains("\n"+string(data)+"\n", "\nREADY=1\n") {
			t.Errorf("ready: %v", m.ready)
		}
		if m.status != nil && strings.ContainsAny(*m.status, "\n\r\x1b\x00") {
			t.Errorf("status %q would not be a line of text", *m.status)
		}
		if m.pid != 0 {
			t.Error("a message does not say who wrote it, the kernel does")
		}
	})
}

func TestWithin(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	}()
	line := make([]byte, 20)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	worker := 0
	for _, c := range strings.TrimSpace(string(line[:n])) {
		worker = 10*worker + int(c-'0')
	}
	leader := cmd.Process.Pid
	for _, c := range []struct {
		process, leader int
		want            bool
	}{
		{leader, leader, true},
		{worker, leader, true},
		{leader, os.Getpid(), true}, // another group, but a descendant
		{os.Getpid(), leader, false},
		{1, leader, false},
		{leader, worker, false},
	} {
		if got, ended := within(c.process, c.leader); got != c.want || ended {
			t.Errorf("%d within %d: %v", c.process, c.leader, got)
		}
	}
	if parent(worker) != leader || parent(1<<22+1) != 0 {
		t.Errorf("the parent of %d is %d", worker, parent(worker))
	}
}

// One who has ended is known by his user only.
func TestBelieves(t *testing.T) {
	leader := exec.Command("sleep", "60")
	uid, program := uint32(os.Geteuid()), uint32(os.Geteuid())
	if uid == 0 {
		program = 4343
		leader.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: program, Gid: program}}
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = leader.Process.Kill()
		_ = leader.Wait()
	}()
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pid  int
		uid  uint32
		want bool
	}{
		{0, 0, false},
		{leader.Process.Pid, 4200, true},
		{os.Getpid(), uid, false},
		{ended.Process.Pid, 0, true},
		{ended.Process.Pid, uid, true},
		{ended.Process.Pid, program, true},
		{ended.Process.Pid, 4200, false},
		{ended.Process.Pid, 65534, false},
	} {
		if got := believes(&notification{pid: c.pid, uid: c.uid}, leader.Process.Pid); got != c.want {
			t.Errorf("of pid %d, uid %d: %v", c.pid, c.uid, got)
		}
	}
}

// lingering hears a stranger who sends sockets whose close(2) waits, and then asks whether all was heard. With a thread for
// each of them, the runtime ends it.
var lingering = testutil.NewHelper("lingering", func([]string) error {
	debug.SetMaxThreads(100)
	n, err := newNotifySocket("lingering", 1)
	if err != nil {
		return err
	}
	defer n.close()
	u, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: n.name})
	if err != nil {
		return err
	}
	c, err := scm.NewConn(u)
	if err != nil {
		return err
	}
	defer c.Close()
	tell := func(message string, fd int) error {
		err := c.SendFDs([]byte(message), []int{fd})
		_ = unix.Close(fd) // the message has the last copy, until it is heard
		if err != nil {
			return err
		}
		if err := n.wait(); err != nil {
			return err
		}
		_, done, err := n.receive()
		if err != nil {
			return err
		}
		done()
		return nil
	}
	for range 200 {
		a, peer, err := testutil.Linger()
		if err != nil {
			return err
		}
		if err := tell("STATUS=a stranger's", a); err != nil {
			return err
		}
		defer unix.Close(peer)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	if err := tell("BARRIER=1", pipe[1]); err != nil {
		return err
	}
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		return fmt.Errorf("the barrier is not answered: %d, %w", n, err)
	}
	return nil
})

// Descriptors that take long to close, be they thousands, neither end the supervisor nor hold up a barrier.
func TestNotifyLinger(t *testing.T) {
	testutil.NoLeaks(t)
	if err := lingering.Command(t).Run(); err != nil {
		t.Error(err)
	}
}

// READY=1 of a generation that was killed because it took too long comes too late.
func TestHearTooLate(t *testing.T) {
	testutil.NoLeaks(t)
	for verdict, want := range map[string]State{"": Live, "no READY=1": Starting} {
		s := newSupervisor(Config{Log: os.Stderr})
		n, err := newNotifySocket("test", 1)
		if err != nil {
			t.Fatal(err)
		}
		g := &generation{number: 1, pid: os.Getpid(), state: Starting, notify: n, verdict: verdict}
		s.generations = append(s.generations, g)
		c, err := net.Dial("unixgram", n.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("READY=1")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		s.hearAll(g)
		if g.state != want {
			t.Errorf("%q: %s, want %s", verdict, g.state, want)
		}
		n.close()
	}
}
