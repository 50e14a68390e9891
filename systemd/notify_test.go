//go:build linux

package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
	"github.com/fdkit/fdkit/systemd"
)

// manager listens and makes itself this process's manager.
func manager(t *testing.T) *systemd.NotifyListener {
	t.Helper()
	return managerAt(t, filepath.Join(testutil.ShortDir(t), "notify"))
}

func managerAt(t *testing.T, addr string) *systemd.NotifyListener {
	t.Helper()
	l, err := systemd.ListenNotify(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", l.Addr())
	return l
}

func receive(t *testing.T, l *systemd.NotifyListener) *systemd.Notification {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := l.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// sent fails the test unless a manager was told.
func sent(t *testing.T) func(bool, error) {
	return func(sent bool, err error) {
		t.Helper()
		if !sent || err != nil {
			t.Fatalf("sent %v, %v", sent, err)
		}
	}
}

func abstract(t *testing.T) string {
	return fmt.Sprintf("@fdkit-%d-%s", os.Getpid(), t.Name())
}

func TestNotify(t *testing.T) {
	for _, kind := range []string{"path", "abstract"} {
		t.Run(kind, func(t *testing.T) {
			testutil.NoLeaks(t)
			addr := abstract(t)
			if kind == "path" {
				addr = filepath.Join(testutil.ShortDir(t), "notify")
			}
			l := managerAt(t, addr)
			sent(t)(systemd.Notify(t.Context(), systemd.Ready, systemd.Status("serving\nMAINPID=1\xff"), systemd.MainPID(os.Getpid())))
			n := receive(t, l)
			want := "READY=1\nSTATUS=serving MAINPID=1\uFFFD\nMAINPID=" + strconv.Itoa(os.Getpid())
			if !strings.HasPrefix(string(n.State), want) {
				t.Errorf("%q, want %q", n.State, want)
			}
			if n.Sender.PID != os.Getpid() || n.Sender.UID != uint32(os.Getuid()) || n.Files.Len() != 0 {
				t.Errorf("from %+v, with %d files", n.Sender.Cred, n.Files.Len())
			}
			if n.Sender.Process != nil && !n.Sender.Process.Alive() {
				t.Error("the sender is said to be dead")
			}
			l.Close()
			if _, err := os.Lstat(addr); kind == "path" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the path is still there: %v", err)
			}
		})
	}
}

func TestStates(t *testing.T) {
	for _, c := range []struct {
		state            systemd.State
		variable, prefix string
	}{
		{systemd.Ready, "READY", "1"},
		{systemd.Stopping, "STOPPING", "1"},
		{systemd.Watchdog, "WATCHDOG", "1"},
		{systemd.Unwatched, "FDPOLL", "0"},
		{systemd.Reloading(), "RELOADING", "1"},
		{systemd.Status("a=b"), "STATUS", "a=b"},
		{systemd.Errno(syscall.ENOENT), "ERRNO", "2"},
		{systemd.MainPID(4711), "MAINPID", "4711"},
		{systemd.ExtendTimeout(1500 * time.Millisecond), "EXTEND_TIMEOUT_USEC", "1500000"},
		{systemd.ExtendTimeout(-1), "EXTEND_TIMEOUT_USEC", "0"},
		{"A=1\nB=2\nA=3\n", "A", "3"},
		{"A=", "A", ""},
	} {
		if v, ok := c.state.Get(c.variable); !ok || v != c.prefix {
			t.Errorf("%q has %s %q, %v", c.state, c.variable, v, ok)
		}
	}
	if v, ok := systemd.State("A=1\nXB=2").Get("B"); ok {
		t.Errorf("B is %q", v)
	}
	// The clock is that of the manager: CLOCK_MONOTONIC, in microseconds.
	now := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano() / 1000
	}
	before := now()
	v, _ := systemd.Reloading().Get("MONOTONIC_USEC")
	if usec, err := strconv.ParseInt(v, 10, 64); err != nil || usec < before || usec > now() {
		t.Errorf("MONOTONIC_USEC=%s, before it was %d, after it %d", v, before, now())
	}
}

func TestNoManager(t *testing.T) {
	testutil.NoLeaks(t)
	t.Setenv("NOTIFY_SOCKET", "")
	null := openNull(t)
	for what, f := range map[string]func() (bool, error){
		"Notify":    func() (bool, error) { return systemd.Notify(t.Context(), systemd.Ready) },
		"NotifyFor": func() (bool, error) { return systemd.NotifyFor(t.Context(), os.Getppid(), systemd.Ready) },
		"Barrier":   func() (bool, error) { return systemd.Barrier(t.Context()) },
		"Store":     func() (bool, error) { return systemd.Store(t.Context(), "a", []syscall.Conn{null}) },
		"Remove":    func() (bool, error) { return systemd.Remove(t.Context(), "a") },
	} {
		if sent, err := f(); sent || err != nil {
			t.Errorf("%s without a manager: %v, %v", what, sent, err)
		}
	}
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dead, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // the path stays
	for addr, want := range map[string]error{
		"relative":                     systemd.ErrEnvironment,
		"@":                            systemd.ErrEnvironment,
		"vsock-stream:2:4711":          errors.ErrUnsupported,
		filepath.Join(dir, "none"):     syscall.ENOENT,
		dead:                           syscall.ECONNREFUSED,
		"/" + strings.Repeat("x", 200): syscall.EINVAL,
	} {
		t.Setenv("NOTIFY_SOCKET", addr)
		if sent, err := systemd.Notify(t.Context(), systemd.Ready); sent || !errors.Is(err, want) {
			t.Errorf("at %s: %v, %v, want %v", addr, sent, err, want)
		}
	}
}

func openNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestNotifyRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	manager(t)
	if _, err := systemd.Notify(t.Context()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("nothing to say: %v", err)
	}
	if _, err := systemd.Notify(t.Context(), systemd.Status(strings.Repeat("x", 5000))); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("too long: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if sent, err := systemd.Notify(ctx, systemd.Ready); sent || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", sent, err)
	}
	null := openNull(t)
	for _, name := range []string{"a:b", "a\nFDSTOREREMOVE=1", "ä", strings.Repeat("x", 256)} {
		if _, err := systemd.Store(t.Context(), name, []syscall.Conn{null}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("store as %q: %v", name, err)
		}
		if _, err := systemd.Remove(t.Context(), name); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	t.Setenv("FDSTORE", "1")
	if _, err := systemd.Store(t.Context(), "a", []syscall.Conn{null, null}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("two for one place: %v", err)
	}
	null.Close()
	if _, err := systemd.Store(t.Context(), "a", []syscall.Conn{null}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("store a closed file: %v", err)
	}
}

// A manager that does not read holds nobody up for ever, and one that reads late gets everything.
func TestNotifyFullQueue(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	told := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := systemd.Notify(ctx, systemd.Status(strconv.Itoa(told)))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil || told > 1e6 {
			t.Fatal(told, err)
		}
		told++
	}
	done := make(chan error, 1)
	go func() {
		_, err := systemd.Notify(t.Context(), systemd.Stopping) // waits for room
		done <- err
	}()
	for i := range told {
		if v, _ := receive(t, l).State.Get("STATUS"); v != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, v)
		}
	}
	if n := receive(t, l); n.State != systemd.Stopping {
		t.Errorf("the last is %q", n.State)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBarrier(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	sent(t)(systemd.Notify(t.Context(), systemd.Ready))
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := systemd.Barrier(ctx)
		done <- err
	}()
	n := receive(t, l)
	if n.State != systemd.Ready {
		t.Fatal(n.State)
	}
	// Whatever the other goroutine has done by now, this was not said to be handled yet.
	select {
	case err := <-done:
		t.Fatal("the barrier ended before the message was handled", err)
	default:
	}
	ctx, cancel := context.WithCancel(t.Context())
	received := make(chan error, 1)
	go func() {
		_, err := l.Receive(ctx)
		received <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-received; !errors.Is(err, context.Canceled) {
		t.Errorf("nothing else was to come: %v", err)
	}
	// The listener goes on.
	sent(t)(systemd.Notify(t.Context(), systemd.Stopping))
	if n := receive(t, l); n.State != systemd.Stopping {
		t.Error(n.State)
	}
	// A manager that never reads.
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if _, err := systemd.Barrier(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody reads: %v", err)
	}
}

// A manager that ends lets go of those who wait for it.
func TestBarrierManagerEnds(t *testing.T) {
	testutil.NoLeaks(t)
	addr := &net.UnixAddr{Name: filepath.Join(testutil.ShortDir(t), "notify"), Net: "unixgram"}
	c, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	done := make(chan error, 1)
	go func() {
		_, err := systemd.Barrier(t.Context())
		done <- err
	}()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 100), unix.MSG_PEEK)
		return err != unix.EAGAIN && n > 0
	}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStore(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	const many = 600
	var files []syscall.Conn
	var want []string
	for i := range many {
		f, err := systemd.Sealed("item", []byte(strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
		want = append(want, strconv.Itoa(i))
	}
	done := make(chan error, 1)
	go func() {
		_, err := systemd.Store(t.Context(), "items", files, systemd.Unwatched)
		done <- err
	}()
	var got []string
	messages := 0
	for ; len(got) < many; messages++ {
		n := receive(t, l)
		if n.State != "FDSTORE=1\nFDNAME=items\nFDPOLL=0" {
			t.Fatalf("%q", n.State)
		}
		for i := range n.Files.Len() {
			content, err := systemd.ReadSealed(n.Files.Lend(i), 10)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(content))
		}
		n.Close()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) || messages != 3 {
		t.Errorf("%d files in %d messages: %v", len(got), messages, got)
	}
	sent(t)(systemd.Remove(t.Context(), "items"))
	if n := receive(t, l); n.State != "FDSTOREREMOVE=1\nFDNAME=items" {
		t.Errorf("%q", n.State)
	}
}

// hears tells what it hears, and what it forged.
func TestNotifyFor(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	sent(t)(systemd.NotifyFor(t.Context(), os.Getppid(), systemd.Ready))
	want := os.Getpid() // an ordinary user writes in nobody else's name
	if testutil.MayForge(t) {
		want = os.Getppid()
	}
	if n := receive(t, l); n.Sender.PID != want || n.State != systemd.Ready {
		t.Errorf("%q from %d, want %d", n.State, n.Sender.PID, want)
	}
	sent(t)(systemd.NotifyFor(t.Context(), 1<<22+1, systemd.Ready)) // no such process
	if n := receive(t, l); n.Sender.PID != os.Getpid() {
		t.Errorf("from %d", n.Sender.PID)
	}
	sent(t)(systemd.NotifyFor(t.Context(), os.Getpid(), systemd.Ready))
	if n := receive(t, l); n.Sender.PID != os.Getpid() {
		t.Errorf("from %d", n.Sender.PID)
	}
}

// What should not come changes nothing, and no descriptor of it stays.
func TestListenNotifyHostile(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: l.Addr(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := scm.NewConn(c)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	null := openNull(t)
	many := make([]syscall.Conn, scm.MaxFDs)
	for i := range many {
		many[i] = null
	}
	for _, p := range []string{"", strings.Repeat("x", 4097), "BARRIER=1", "BARRIER=1\n"} {
		if err := a.Send([]byte(p), many...); err != nil {
			t.Fatalf("%.10q: %v", p, err)
		}
	}
	if err := a.Send([]byte("READY=1\x00\nBARRIER=1\n"), null, null); err != nil {
		t.Fatal(err)
	}
	n := receive(t, l)
	if n.State != "READY=1\x00\nBARRIER=1\n" || n.Files.Len() != 2 {
		t.Errorf("%q with %d files", n.State, n.Files.Len())
	}
	n.Close()
	n.Close()
	(*systemd.Notification)(nil).Close()
	(*systemd.NotifyListener)(nil).Close()
}

// flooder fills the listener's queue, with descriptors and without, as fast as it can.
var flooder = testutil.NewHelper("flooder", func(args []string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: args[0], Net: "unixgram"})
	if err != nil {
		return err
	}
	a, err := scm.NewConn(c)
	if err != nil {
		return err
	}
	defer a.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	for {
		for _, p := range []string{"STATUS=flood", "", "BARRIER=1", strings.Repeat("x", 5000)} {
			if err := a.Send([]byte(p), null); err != nil {
				return nil // the listener is closed
			}
		}
	}
})

// One that floods an abstract name, which everybody can write to, does not keep others out, and what it brings is
// closed.
func TestListenNotifyFlood(t *testing.T) {
	testutil.NoLeaks(t)
	l := managerAt(t, fmt.Sprintf("@fdkit-flood-%d", os.Getpid()))
	cmd := flooder.Command(t, l.Addr())
	if os.Geteuid() == 0 {
		cmd = flooder.CommandAs(t, 4200, 4200, nil, l.Addr())
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1)
	seen := 0
	for ready := false; !ready; {
		n := receive(t, l)
		if n.Sender.PID == cmd.Process.Pid {
			if seen++; seen == 10 { // it floods
				go func() {
					_, err := systemd.Notify(t.Context(), systemd.Ready)
					told <- err
				}()
			}
		}
		ready = n.Sender.PID == os.Getpid() && n.State == systemd.Ready
		n.Close()
	}
	if err := <-told; err != nil {
		t.Error(err)
	}
	l.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A descriptor whose close(2) takes as long as its sender likes holds nobody up.
func TestListenNotifyLinger(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	ln := liveListener(t)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	c.Write(make([]byte, 64<<20)) // more than the peer, which does not read, has room for
	const linger = 40
	if err := c.(*net.TCPConn).SetLinger(linger); err != nil {
		t.Fatal(err)
	}
	u, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: l.Addr(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := scm.NewConn(u)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Send([]byte("BARRIER=1"), c.(*net.TCPConn)); err != nil {
		t.Fatal(err)
	}
	// Now the message has the last copy. (The close of this one would wait too, were it the last.)
	c.Close()
	sent(t)(systemd.Notify(t.Context(), systemd.Ready))
	begin := time.Now()
	if n := receive(t, l); n.State != systemd.Ready {
		t.Error(n.State)
	}
	if d := time.Since(begin); d > linger*time.Second/2 {
		t.Errorf("held up for %v", d)
	}
}

// fullTable receives at its limit of descriptors.
var fullTable = testutil.NewHelper("full-table", func(args []string) error {
	l, err := systemd.ListenNotify(args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var room []int
	for {
		fd, err := unix.Dup(0)
		if err == unix.EMFILE {
			break
		}
		room = append(room, fd)
	}
	fmt.Println("full")
	if _, err := l.Receive(ctx); !errors.Is(err, scm.ErrFilesLost) || !errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("with a full table: %w", err)
	}
	n, err := l.Receive(ctx)
	if err != nil || n.State != systemd.Ready {
		return fmt.Errorf("without descriptors: %w", err)
	}
	for _, fd := range room {
		unix.Close(fd)
	}
	n, err = l.Receive(ctx)
	if err != nil || n.Files.Len() != 1 {
		return fmt.Errorf("with room: %w", err)
	}
	return n.Close()
})

func TestListenNotifyFullTable(t *testing.T) {
	testutil.NoLeaks(t)
	addr := filepath.Join(testutil.ShortDir(t), "notify")
	cmd := behind(t, fullTable.Command(t, addr), "sh", "-c", `ulimit -Sn 100; ulimit -Hn 100; exec "$0" "$@"`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", addr)
	null := []syscall.Conn{openNull(t)}
	sent(t)(systemd.Store(t.Context(), "a", null))
	sent(t)(systemd.Notify(t.Context(), systemd.Ready))
	sent(t)(systemd.Store(t.Context(), "a", null))
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestListenNotifyRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	l := manager(t)
	for addr, want := range map[string]error{
		"": os.ErrInvalid, "notify": os.ErrInvalid, l.Addr(): syscall.EADDRINUSE,
		filepath.Join(l.Addr(), "x"): syscall.ENOTDIR,
	} {
		if _, err := systemd.ListenNotify(addr); !errors.Is(err, want) {
			t.Errorf("at %q: %v", addr, err)
		}
	}
	l.Close()
	l.Close()
	if _, err := l.Receive(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	// Somebody else's path is not taken away.
	other := managerAt(t, filepath.Join(testutil.ShortDir(t), "notify"))
	if err := os.Remove(other.Addr()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other.Addr(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other.Close()
	if _, err := os.Lstat(other.Addr()); err != nil {
		t.Error(err)
	}
}

// The program everybody uses: it tells, in its parent's name if it is root's, and waits at the barrier for us.
func TestSystemdNotify(t *testing.T) {
	testutil.NoLeaks(t)
	program := testutil.NeedProgram(t, "systemd-notify")
	l := manager(t)
	cmd := commandWithin(t, program, "--ready", "--status=it works", "X_OTHER=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := receive(t, l)
	if n.State != "READY=1\nSTATUS=it works\nX_OTHER=1" {
		t.Errorf("%q", n.State)
	}
	want := cmd.Process.Pid
	if testutil.MayForge(t) {
		want = os.Getpid()
	}
	if n.Sender.PID != want {
		t.Errorf("from %d, want %d", n.Sender.PID, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // lets it through the barrier
		defer cancel()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if n, err := l.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("more: %v, %v", n, err)
	}
}

func TestWatchdogInterval(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		err       bool
	}{
		{"-", "-", 0, false},
		{"20000000", "-", 20 * time.Second, false},
		{"20000000", own, 20 * time.Second, false},
		{"20000000", "1", 0, false},
		{"0", "-", 0, true},
		{"-1", "-", 0, true},
		{"1s", "-", 0, true},
		{"99999999999999999", "-", 0, true},
		{"1000", "x", 0, true},
	} {
		for name, v := range map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid} {
			t.Setenv(name, v)
			if v == "-" {
				os.Unsetenv(name)
			}
		}
		d, err := systemd.WatchdogInterval()
		if d != c.want || errors.Is(err, systemd.ErrEnvironment) != c.err {
			t.Errorf("%+v: %v, %v", c, d, err)
		}
	}
}

func TestSealed(t *testing.T) {
	testutil.NoLeaks(t)
	for _, size := range []int{0, 1, 1 << 20} {
		content := []byte(strings.Repeat("x", size))
		f, err := systemd.Sealed("state", content)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the offset does not move
			got, err := systemd.ReadSealed(f, size)
			if err != nil || string(got) != string(content) {
				t.Errorf("%d bytes of %d, %v", len(got), size, err)
			}
		}
		if size > 0 {
			if _, err := systemd.ReadSealed(f, size-1); !errors.Is(err, syscall.EFBIG) {
				t.Errorf("too small a limit: %v", err)
			}
		}
		if _, err := f.WriteAt([]byte("y"), 0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("it was changed: %v", err)
		}
		if err := f.Truncate(int64(size) + 1); !errors.Is(err, syscall.EPERM) {
			t.Errorf("it grew: %v", err)
		}
		f.Close()
		if _, err := systemd.ReadSealed(f, size); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
	fd, err := unix.MemfdCreate("open", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	open := os.NewFile(uintptr(fd), "open")
	defer open.Close()
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	for _, c := range []syscall.Conn{open, a, openNull(t)} {
		if _, err := systemd.ReadSealed(c, 10); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("not sealed: %v", err)
		}
	}
}
