//go:build linux

package handoff

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	ossignal "os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
)

// inContainer starts the test's service as pid 1 of a pid namespace of its own, as unshare(1) does, and returns its pid out
// here.
func inContainer(t *testing.T, c serviceConfig) (*running, int) {
	t.Helper()
	unshare := testutil.NeedProgram(t, "unshare")
	options := []string{"-pf", "--mount-proc", "--kill-child"}
	if os.Getuid() != 0 {
		options = append([]string{"-Ur"}, options...)
	}
	if out, err := exec.Command(unshare, append(options, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no pid namespace for this user: %v: %s", err, out)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := aService.Command(t)
	cmd.Args = append(append([]string{unshare}, options...), cmd.Path)
	cmd.Path = unshare
	r := launchCommand(t, cmd, "SERVICE="+string(b))
	r.await(string(EventFresh))
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(children))[0])
	if err != nil {
		t.Fatal(err)
	}
	return r, pid
}

// upgradeByInit has the generation that serves, live, replaced, and returns when nobody can take back.
func upgradeByInit(t *testing.T, service *running, pid, live int) line {
	t.Helper()
	offerByInit(t, service, pid, live)
	return service.awaitEach("ready", string(EventSettled))[0]
}

// offerByInit sends pid 1 the signal, which it passes on when it is not the one that serves, live, until that offers. It may
// be early: the last one's word that it serves is on its way.
func offerByInit(t *testing.T, service *running, pid, live int) {
	t.Helper()
	for range 60 {
		_ = syscall.Kill(pid, syscall.SIGHUP)
		timeout := time.After(time.Second)
		for waiting := true; waiting; {
			select {
			case l, ok := <-service.lines:
				if !ok {
					t.Fatalf("all have ended: %s", service.complaints)
				}
				if l.Event == string(EventOffering) && l.PID == live {
					return
				}
			case <-timeout:
				waiting = false
			}
		}
	}
	t.Fatal("no generation follows")
}

// children returns the children of a process, dead ones too, with the pids that they have in their own namespace.
func children(t *testing.T, pid int) map[int]int {
	t.Helper()
	all := map[int]int{}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for _, f := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
			_, after, _ := strings.Cut(string(status), "NSpid:")
			line, _, _ := strings.Cut(after, "\n")
			for _, f := range strings.Fields(line) { // the last is the innermost
				all[child], _ = strconv.Atoi(f)
			}
		}
	}
	return all
}

// The end of pid 1 would be the end of its successors. It stays, passes signals on, reaps, and ends as the last one does.
func TestInit(t *testing.T) {
	for name, end := range map[string]struct {
		signal syscall.Signal
		toLive bool
		status string
	}{
		"stopped": {syscall.SIGTERM, false, "<nil>"},
		"killed":  {syscall.SIGKILL, true, "exit status 137"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			c.TCP = testutil.FreeAddress(t)
			service, first := inContainer(t, c)
			ready := service.await("ready")
			if ready.PID != 1 {
				t.Fatalf("pid %d", ready.PID)
			}
			live, serves := first, ready.PID
			for generation := 2; generation <= 4; generation++ {
				next := upgradeByInit(t, service, first, serves)
				serves = next.PID
				testutil.Eventually(t, "the generation before has been reaped, and its child is pid 1's", func() bool {
					all := children(t, first)
					for live = range all {
					}
					return len(all) == 1 && all[live] == next.PID
				})
				answer, err := ask("tcp", ready.Addr)
				if want := fmt.Sprintf("%d %d /x", generation, next.PID); err != nil || answer != want {
					t.Errorf("%q, %v; want %q", answer, err, want)
				}
			}
			testutil.Eventually(t, "pid 1 has the one socket that it needs", func() bool { return sockets(t, first) == 1 })
			to := first
			if end.toLive {
				to = live
			}
			_ = syscall.Kill(to, end.signal)
			select {
			case err := <-service.ended:
				if fmt.Sprint(err) != end.status {
					t.Errorf("it ends with %v, want %s: %s", err, end.status, service.complaints)
				}
			case <-time.After(time.Minute):
				t.Fatal("it does not end")
			}
			if _, err := http.Get("http://" + ready.Addr); err == nil {
				t.Error("somebody serves still")
			}
		})
	}
}

// A signal that comes while the successor is on probation is not lost, whether pid 1 waits for its end or a generation to
// which pid 1 passes it on: the handoff is committed, and it is the successor that is to stop.
func TestInitOnProbation(t *testing.T) {
	for generations := 2; generations <= 3; generations++ {
		t.Run(fmt.Sprint(generations), func(t *testing.T) {
			c := config(t)
			c.TCP = testutil.FreeAddress(t)
			c.Deadlines.Probation = time.Second
			service, first := inContainer(t, c)
			serves := service.await("ready").PID
			for range generations - 2 {
				serves = upgradeByInit(t, service, first, serves).PID
			}
			offerByInit(t, service, first, serves)
			service.await("ready")
			_ = syscall.Kill(first, syscall.SIGTERM)
			select {
			case err := <-service.ended:
				if err != nil {
					t.Errorf("it ends with %v: %s", err, service.complaints)
				}
			case <-time.After(time.Minute):
				t.Error("the signal is lost")
			}
		})
	}
}

// A signal that comes when the generation that served has ended, or has handed over, and its successor's word is on its
// way, is not lost.
func TestInitBetweenGenerations(t *testing.T) {
	testutil.NoLeaks(t)
	begin := func(program string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", program)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	word := func(of *exec.Cmd) *credentials.Sender {
		p, err := credentials.OpenProcess(of.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		return &credentials.Sender{Cred: credentials.Cred{PID: of.Process.Pid}, Process: p}
	}
	for _, c := range []struct {
		ends bool
		sig  syscall.Signal
	}{{true, syscall.SIGUSR1}, {false, syscall.SIGTERM}} {
		first, second := begin(`trap "" TERM; echo; exec sleep 60`), begin(`echo; exec sleep 60`)
		in := &initial{status: map[int]int{}, stops: defaultStopSignals}
		in.heard(word(first))
		if c.ends {
			_ = first.Process.Kill()
			_ = first.Wait()
		}
		in.forward(c.sig)
		in.heard(word(second))
		if err := second.Wait(); err == nil || err.Error() != "signal: "+c.sig.String() {
			t.Errorf("the second has ended: %v", err)
		}
		_ = first.Process.Kill()
		_ = first.Wait()
		if err := in.live.Close(); err != nil || len(in.pending) > 0 {
			t.Errorf("%v; signals wait: %v", err, in.pending)
		}
	}
}

// aReaper asks for the end of a process whose parent has not reaped it, and ends a little later.
var aReaper = testutil.NewHelper("reaper", func(args []string) error {
	if len(args) > 0 { // the parent
		child, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 7"}, new(os.ProcAttr))
		if err != nil {
			return err
		}
		fmt.Println(child.Pid)
		time.Sleep(time.Minute) // until it is killed
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	ossignal.Notify(signals, syscall.SIGCHLD)
	testutil.Helper("reaper").Inherit()
	parent := exec.Command(os.Args[0], "parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		return err
	}
	if err := parent.Start(); err != nil {
		return err
	}
	in := &initial{status: map[int]int{}}
	if _, err := fmt.Fscan(out, &in.pid); err != nil {
		return err
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = parent.Process.Kill() })
	_, err = fmt.Println(in.last(signals))
	return err
})

// The last generation may have ended when the one before has not quite: then it is pid 1's to reap only later.
func TestInitReapsLate(t *testing.T) {
	testutil.NoLeaks(t)
	out, err := aReaper.Command(t).Output()
	if err != nil || string(out) != "7\n" {
		t.Errorf("the exit code is %s, %v", out, err)
	}
}

// sockets returns how many a process has open.
func sockets(t *testing.T, pid int) (n int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if what, _ := os.Readlink(dir + "/" + e.Name()); strings.HasPrefix(what, "socket:") {
			n++
		}
	}
	return n
}
