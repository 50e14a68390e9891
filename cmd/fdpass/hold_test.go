//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
	"github.com/fdkit/fdkit/internal/testutil"
)

// aHolder is a process of fdpass hold.
type aHolder struct {
	*exec.Cmd
	t      testing.TB
	ended  chan struct{} // closed when it has, with
	err    error
	stderr bytes.Buffer // complete when it has ended
}

// hold starts a holder and returns when it is ready.
func hold(t testing.TB, path string, args ...string) *aHolder {
	t.Helper()
	h := startHold(t, path, args...)
	if !h.awaitReady() {
		t.Fatalf("hold: %v\n%s", h.err, &h.stderr)
	}
	return h
}

func startHold(t testing.TB, path string, args ...string) *aHolder {
	t.Helper()
	h := &aHolder{t: t, ended: make(chan struct{})}
	h.Cmd = exec.Command(binary(t), append([]string{"hold", "--socket", path}, args...)...)
	h.Env = append(os.Environ(), "NOTIFY_SOCKET="+path+".notify", "GORACE=atexit_sleep_ms=0")
	h.Cmd.Stderr = &h.stderr
	return h
}

// awaitReady starts the holder, and reports whether it said READY=1 before it ended.
func (h *aHolder) awaitReady() bool {
	h.t.Helper()
	addr := &net.UnixAddr{Name: strings.TrimPrefix(h.Env[len(h.Env)-2], "NOTIFY_SOCKET="), Net: "unixgram"}
	ln, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	defer os.Remove(addr.Name)
	defer ln.Close()
	if err := h.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		h.err = h.Wait()
		close(h.ended)
		_ = ln.SetReadDeadline(time.Unix(1, 0))
	}()
	h.t.Cleanup(func() {
		_ = h.Process.Kill()
		<-h.ended
	})
	_ = ln.SetReadDeadline(time.Now().Add(2 * time.Minute))
	b := make([]byte, 4096)
	for { // a holder from which it takes over tells the same manager
		n, err := ln.Read(b)
		if err != nil {
			return false
		}
		if strings.HasPrefix(string(b[:n]), "READY=1\n") {
			return true
		}
	}
}

// mustEndWell waits until the holder has ended, by itself, having said nothing.
func (h *aHolder) mustEndWell() {
	h.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(2 * time.Minute):
		h.t.Fatal("the holder does not end")
	}
	if h.err != nil || h.stderr.Len() > 0 {
		h.t.Errorf("the holder ended with %v and said %q", h.err, &h.stderr)
	}
}

// fdpass runs the program with the holder at path, and returns what it prints and its error, which has
// what it said on standard error.
func fdpass(t testing.TB, path string, stdin *os.File, args ...string) (string, error) {
	t.Helper()
	return runCommand(exec.Command(binary(t), args...), path, stdin)
}

func command(t testing.TB, stdin *os.File, name string, args ...string) (string, error) {
	t.Helper()
	return runCommand(exec.Command(testutil.NeedProgram(t, name), args...), "", stdin)
}

// runCommand runs cmd with the holder at path.
func runCommand(cmd *exec.Cmd, path string, stdin *os.File) (string, error) {
	cmd.Env = append(os.Environ(), "FDPASS_HOLDER="+path, "GORACE=atexit_sleep_ms=0")
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil && stderr.Len() > 0 {
		err = errors.New("it says: " + stderr.String())
	}
	return string(out), errors.WithMessagef(err, "%s: %s", strings.Join(cmd.Args, " "), strings.TrimSpace(stderr.String()))
}

func must(t testing.TB) func(string, error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// mustFail checks the exit status and what is said, one line.
func mustFail(t testing.TB, code int, said string) func(string, error) {
	return func(out string, err error) {
		t.Helper()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != code || !regexp.MustCompile(said).MatchString(err.Error()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q, %v; want status %d and %q", out, err, code, said)
		}
	}
}

// aMemfd is a file with an identity of its own, called name.
func aMemfd(t testing.TB, name string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// a client in this process, for many requests.
func client(t testing.TB, path string) *holder.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	c, err := holder.Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// fill stores n memfds, called like their names, and returns the names and inodes.
func fill(t testing.TB, path string, n int) map[string]uint64 {
	t.Helper()
	c := client(t, path)
	inodes := make(map[string]uint64, n)
	for i := range n {
		name := fmt.Sprintf("memfd-%d", i)
		f := aMemfd(t, name)
		var st syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if err := c.Store(name, holder.Never(time.Now()), f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		inodes[name] = st.Ino
	}
	return inodes
}

// mustHave checks that the holder has exactly these.
func mustHave(t testing.TB, path string, inodes map[string]uint64) {
	t.Helper()
	all, err := client(t, path).Dump()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(inodes) {
		t.Errorf("%d are held, %d were stored", len(all), len(inodes))
	}
	for _, d := range all {
		var st syscall.Stat_t
		if err := syscall.Fstat(int(d.FD), &st); err != nil || st.Ino != inodes[d.Name] {
			t.Errorf("%s is inode %d, it was %d; %v", d.Name, st.Ino, inodes[d.Name], err)
		}
		_ = d.FD.Close()
	}
}

func TestHoldAndS6Programs(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	h := hold(t, path)
	f := aMemfd(t, "of-s6")
	defer f.Close()
	ok := must(t)
	ok(command(t, f, "s6-fdholder-store", path, "a name"))
	mustFail(t, 1, "Device or resource busy")(command(t, f, "s6-fdholder-store", path, "a name"))
	ok(fdpass(t, path, f, "store", "ours"))
	if out := ok(command(t, nil, "s6-fdholder-list", path)); out != "a name\nours\n" && out != "ours\na name\n" {
		t.Errorf("s6-fdholder-list: %q", out)
	}
	if out := ok(fdpass(t, path, nil, "list")); out != "\"a name\"\nours\n" {
		t.Errorf("list: %q", out)
	}
	for _, out := range []string{
		ok(command(t, nil, "s6-fdholder-retrieve", path, "ours", "readlink", "/proc/self/fd/0")),
		ok(fdpass(t, path, nil, "retrieve", "a name", "--", "readlink", "/proc/self/fd/0")),
		ok(fdpass(t, path, nil, "retrieve", "--as", "systemd", "a name", "--", "readlink", "/proc/self/fd/3")),
		ok(command(t, nil, "s6-fdholder-retrieve", "-D", path, "ours", "readlink", "/proc/self/fd/0")),
	} {
		if out != "/memfd:of-s6 (deleted)\n" {
			t.Errorf("retrieved: %q", out)
		}
	}
	ok(command(t, nil, "s6-fdholder-delete", path, "a name"))
	mustFail(t, 1, "No such file or directory")(command(t, nil, "s6-fdholder-delete", path, "a name"))
	if out := ok(fdpass(t, path, nil, "list")); out != "" {
		t.Errorf("list: %q", out)
	}
	ok(command(t, f, "s6-fdholder-store", "-T", "50", path, "short")) // ms
	testutil.Eventually(t, "it expires", func() bool { return ok(command(t, nil, "s6-fdholder-list", path)) == "" })

	begin := time.Now()
	ok(command(t, f, "s6-fdholder-store", "-T", "3600000", path, "an hour"))
	end := time.Now()
	all, err := client(t, path).Dump()
	if err != nil || len(all) != 1 {
		t.Fatalf("%v %v", all, err)
	}
	_ = all[0].FD.Close()
	if at, expires := all[0].Expiry.Time(); !expires || at.Before(begin.Add(time.Hour-time.Second)) || at.After(end.Add(time.Hour+time.Second)) {
		t.Errorf("an hour from between %v and %v is %v", begin, end, at)
	}
	ok(fdpass(t, path, nil, "delete", "an hour"))

	// A dump of more than twice what one message carries.
	inodes := fill(t, path, 600)
	out := ok(command(t, nil, "s6-fdholder-getdump", path, "sh", "-c", `tr "\0" "\n" </proc/$$/environ; ls -l /proc/self/fd`))
	vars := map[string]string{}
	links := map[string]string{}
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if name, value, ok := strings.Cut(line, "="); ok {
			vars[name] = value
		} else if at := strings.Index(line, " -> /memfd:"); at >= 0 {
			fields := strings.Fields(line[:at])
			links[fields[len(fields)-1]] = strings.TrimSuffix(line[at+len(" -> /memfd:"):], " (deleted)")
		}
	}
	if vars["S6_FD#"] != "600" {
		t.Errorf("S6_FD# is %q", vars["S6_FD#"])
	}
	for i := range 600 {
		if name := vars["S6_FDID_"+strconv.Itoa(i)]; name == "" || links[vars["S6_FD_"+strconv.Itoa(i)]] != name {
			t.Errorf("%d: %q is %q", i, name, links[vars["S6_FD_"+strconv.Itoa(i)]])
		}
	}
	mustHave(t, path, inodes)

	// s6's own client of Debian 12 cannot restore more than 253.
	second := path + "2"
	hold(t, second)
	c := client(t, path)
	for name := range inodes {
		if n, _ := strconv.Atoi(strings.TrimPrefix(name, "memfd-")); n >= 100 {
			if err := c.Delete(name); err != nil {
				t.Fatal(err)
			}
			delete(inodes, name)
		}
	}
	ok(command(t, nil, "s6-fdholder-getdump", path, "s6-fdholder-setdump", second))
	mustHave(t, second, inodes)
	mustFail(t, 1, "Device or resource busy")(command(t, nil, "s6-fdholder-transferdump", path, second))
	_ = h.Process.Signal(syscall.SIGTERM)
	h.mustEndWell()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the path of one that was told to stop is still there")
	}
}

// s6Daemon starts s6's own holder.
func s6Daemon(t testing.TB, path string, max int) {
	t.Helper()
	rules := path + ".rules"
	user := filepath.Join(rules, "uid", strconv.Itoa(os.Geteuid()))
	if err := os.MkdirAll(filepath.Join(user, "env"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"allow": "", "env/S6_FDHOLDER_GETDUMP": "1\n", "env/S6_FDHOLDER_SETDUMP": "1\n", "env/S6_FDHOLDER_LIST": "1\n",
		"env/S6_FDHOLDER_STORE_REGEX": ".\n", "env/S6_FDHOLDER_RETRIEVE_REGEX": ".\n",
	} {
		if err := os.WriteFile(filepath.Join(user, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(testutil.NeedProgram(t, "s6-fdholder-daemon"), "-1", "-n", strconv.Itoa(max), "-i", rules, path)
	cmd.Stderr = os.Stderr
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		t.Fatalf("s6-fdholder-daemon: %v", err)
	}
}

func TestS6Daemon(t *testing.T) {
	testutil.NoLeaks(t)
	s6 := filepath.Join(testutil.ShortDir(t), "s6")
	s6Daemon(t, s6, 1000)
	ok := must(t)
	f := aMemfd(t, "of-ours")
	defer f.Close()
	ok(fdpass(t, s6, f, "store", "a"))
	ok(fdpass(t, s6, f, "store", "--expire", "1h", "b"))
	for {
		begin := time.Now()
		ok(fdpass(t, s6, f, "store", "--expire", "20s", "while"))
		_, err := fdpass(t, s6, nil, "delete", "while")
		if err == nil {
			break
		}
		if time.Since(begin) < 20*time.Second {
			t.Errorf("s6 takes 20 s for less: %v", err)
			break
		}
	}
	ok(fdpass(t, s6, f, "store", "--expire", "50ms", "short"))
	mustFail(t, 1, "has a descriptor of this name already")(fdpass(t, s6, f, "store", "a"))
	testutil.Eventually(t, "it expires", func() bool { return ok(fdpass(t, s6, nil, "list")) == "a\nb\n" })
	if out := ok(fdpass(t, s6, nil, "list", "--json")); out != "[\n  {\n    \"name\": \"a\"\n  },\n  {\n    \"name\": \"b\"\n  }\n]\n" {
		t.Errorf("%s", out)
	}
	if out := ok(fdpass(t, s6, nil, "retrieve", "a", "--", "readlink", "/proc/self/fd/0")); out != "/memfd:of-ours (deleted)\n" {
		t.Errorf("%q", out)
	}
	ok(fdpass(t, s6, nil, "delete", "a", "b"))
	mustFail(t, 1, `^.*retrieve "a": the holder has no descriptor of this name`)(fdpass(t, s6, nil, "retrieve", "--delete", "a", "--", "true"))

	// To s6's and back, with expiries.
	ours := s6 + ".ours"
	hold(t, ours)
	inodes := fill(t, ours, 250)
	ok(fdpass(t, ours, f, "store", "--expire", "1h", "expires"))
	var st syscall.Stat_t
	_ = syscall.Fstat(int(f.Fd()), &st)
	inodes["expires"] = st.Ino
	ok(fdpass(t, "", nil, "transfer", "--timeout", "5m", ours, s6))
	mustHave(t, ours, nil)
	mustHave(t, s6, inodes)
	ok(fdpass(t, "", nil, "transfer", "--timeout", "5m", s6, ours, "memfd-7", "expires"))
	mustHave(t, ours, map[string]uint64{"memfd-7": inodes["memfd-7"], "expires": inodes["expires"]})
	ok(fdpass(t, "", nil, "transfer", "--timeout", "5m", s6, ours))
	mustHave(t, ours, inodes)
	all, err := client(t, ours).Dump()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		at, expires := d.Expiry.Time()
		if expires != (d.Name == "expires") || expires && (time.Until(at) > time.Hour || time.Until(at) < 50*time.Minute) {
			t.Errorf("%s expires at %v", d.Name, at)
		}
		_ = d.FD.Close()
	}
}

// s6's holder of Debian 12 cannot send a dump of more than one message: then the descriptors come singly.
func TestTransferFromS6(t *testing.T) {
	testutil.NoLeaks(t)
	s6 := filepath.Join(testutil.ShortDir(t), "s6")
	s6Daemon(t, s6, 1000)
	ours := s6 + ".ours"
	hold(t, ours)
	inodes := fill(t, s6, 300)
	if _, err := fdpass(t, "", nil, "transfer", "--timeout", "5m", s6, ours); err != nil && !strings.Contains(err.Error(), "fdpass: warning: expiries do not move: ") {
		t.Error(err)
	}
	mustHave(t, ours, inodes)
	if out := must(t)(fdpass(t, s6, nil, "list")); out != "" {
		t.Errorf("the source still has %q", out)
	}
}

// A transfer moves all or nothing.
func TestTransferIsWhole(t *testing.T) {
	testutil.NoLeaks(t)
	from := filepath.Join(testutil.ShortDir(t), "from")
	to := from + ".to"
	hold(t, from)
	hold(t, to, "--max", "4")
	ok := must(t)
	inodes := fill(t, from, 5)
	f := aMemfd(t, "there")
	defer f.Close()
	ok(fdpass(t, to, f, "store", "memfd-3"))
	mustFail(t, 1, `nothing was moved: store "memfd-3": the holder has a descriptor of this name`)(fdpass(t, "", nil, "transfer", "--timeout", "5m", from, to, "memfd-2", "memfd-3"))
	mustFail(t, 1, `retrieve "nonsense": the holder has no`)(fdpass(t, "", nil, "transfer", "--timeout", "5m", from, to, "memfd-1", "nonsense"))
	mustHave(t, from, inodes)
	if out := ok(fdpass(t, to, nil, "list")); out != "memfd-3\n" {
		t.Errorf("the destination has %q", out)
	}
	ok(fdpass(t, to, nil, "delete", "memfd-3"))
	mustFail(t, 1, `nothing was moved: store "memfd-4": the holder is full`)(fdpass(t, "", nil, "transfer", "--timeout", "5m", from, to))
	mustHave(t, from, inodes)
	mustHave(t, to, nil)
	ok(fdpass(t, "", nil, "transfer", "--timeout", "5m", from, to, "memfd-4"))
	mustHave(t, to, map[string]uint64{"memfd-4": inodes["memfd-4"]})
}

// 10 000 descriptors are held, taken over by another process, and given back.
func TestHoldTenThousand(t *testing.T) {
	testutil.NoLeaks(t)
	const n = 10000
	testutil.NeedFiles(t, 2*n)
	path := filepath.Join(testutil.ShortDir(t), "s")
	first := hold(t, path)
	start := time.Now()
	inodes := fill(t, path, n)
	t.Logf("stored in %v", time.Since(start))
	c := client(t, path) // stays connected
	mustFail(t, 1, `the holder is full \(its --max\)`)(fdpass(t, path, os.Stdin, "store", "one-more"))
	// A holder hangs up on who is silent for half a minute, and that may be over before the other one is ready.
	taken := make(chan struct{})
	var speaking sync.WaitGroup
	speaking.Go(func() {
		for {
			select {
			case <-taken:
				return
			case <-time.After(5 * time.Second):
				if _, err := c.List(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	second := startHold(t, path)
	start = time.Now()
	ok := second.awaitReady()
	close(taken)
	speaking.Wait()
	if !ok {
		t.Fatalf("%v %s", second.err, &second.stderr)
	}
	ready := time.Since(start)
	if names, err := c.List(); err != nil || len(names) != n {
		t.Errorf("the client that was connected sees %d, %v", len(names), err)
	}
	listed := time.Since(start)
	first.mustEndWell()
	t.Logf("taken over in %v, start of the process included; a client that was connected is answered after %v, the old one ended after %v", ready, listed, time.Since(start))
	start = time.Now()
	mustHave(t, path, inodes)
	t.Logf("given back in %v", time.Since(start))
}

// Clients that store, retrieve, take, delete and list all the while do not notice that holders come
// and go; nothing is lost, nothing comes back.
func TestTakeoverUnderLoad(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	current := hold(t, path)
	inodes := fill(t, path, 300)
	var stop atomic.Bool
	var done [4]atomic.Int64
	var clients sync.WaitGroup
	failed := func(what string, err error) bool {
		if err != nil {
			t.Errorf("%s: %v", what, err)
			stop.Store(true)
		}
		return err != nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	// One that stays connected.
	clients.Go(func() {
		c, err := holder.Dial(ctx, path)
		if failed("dial", err) {
			return
		}
		defer c.Close()
		f := aMemfd(t, "x")
		defer f.Close()
		for i := 0; !stop.Load(); i++ {
			name := fmt.Sprintf("stays-connected-%d", i)
			if failed("store", c.Store(name, holder.Never(time.Now()), f)) {
				return
			}
			fd, err := c.Retrieve(name, i%2 == 0)
			if failed("retrieve", err) {
				return
			}
			_ = fd.Close()
			if i%2 == 1 && failed("delete", c.Delete(name)) {
				return
			}
			done[0].Add(1)
		}
	})
	// One that connects each time.
	clients.Go(func() {
		f := aMemfd(t, "y")
		defer f.Close()
		for i := 0; !stop.Load(); i++ {
			c, err := holder.Dial(ctx, path)
			if failed("dial", err) {
				return
			}
			err = c.Store("comes-and-goes", holder.Never(time.Now()), f)
			if err == nil {
				err = c.Delete("comes-and-goes")
			}
			_ = c.Close()
			if failed("store or delete", err) {
				return
			}
			done[1].Add(1)
		}
	})
	// One that lists, and one of s6's that does.
	clients.Go(func() {
		for !stop.Load() {
			c, err := holder.Dial(ctx, path)
			if failed("dial", err) {
				return
			}
			names, err := c.List()
			_ = c.Close()
			if failed("list", err) {
				return
			}
			if n := len(slices.DeleteFunc(names, func(s string) bool { return !strings.HasPrefix(s, "memfd-") })); n != len(inodes) {
				failed("list", errors.Errorf("%d of %d", n, len(inodes)))
				return
			}
			done[2].Add(1)
		}
	})
	program := testutil.NeedProgram(t, "s6-fdholder-list")
	clients.Go(func() {
		for !stop.Load() {
			out, err := exec.CommandContext(ctx, program, path).CombinedOutput()
			if failed("s6-fdholder-list: "+string(out), err) {
				return
			}
			done[3].Add(1)
		}
	})
	const takeovers = 6
	for range takeovers {
		before := done[0].Load()
		testutil.Eventually(t, "clients are served", func() bool { return done[0].Load() > before+100 || stop.Load() })
		next := hold(t, path)
		current.mustEndWell()
		current = next
	}
	stop.Store(true)
	clients.Wait()
	t.Logf("%d takeovers; %d store, retrieve and delete on one connection, %d on their own, %d lists, %d of s6's",
		takeovers, done[0].Load(), done[1].Load(), done[2].Load(), done[3].Load())
	mustHave(t, path, inodes)
}

// A holder that crashed leaves its path. The next one begins there, with nothing.
func TestHoldAfterCrash(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	first := hold(t, path)
	fill(t, path, 3)
	_ = first.Process.Kill()
	<-first.ended
	mustFail(t, 1, "no holder is there")(fdpass(t, path, nil, "list"))
	second := hold(t, path)
	mustHave(t, path, nil)
	inodes := fill(t, path, 3)

	// A successor that crashes before it has taken over, when it has what the old one offers: it comes no further than
	// to say so, because there is no room.
	third := startHold(t, path, "--verbose")
	r, w := fullPipe(t)
	defer r.Close()
	defer w.Close()
	third.Cmd.Stderr = w
	if err := third.Start(); err != nil {
		t.Fatal(err)
	}
	awaitCall(t, third.Process, "it has something to say", func(call string) bool {
		return strings.HasPrefix(call, fmt.Sprintf("%d 0x2 ", unix.SYS_WRITE))
	})
	_ = third.Process.Kill()
	_ = third.Wait()
	// Whichever of the two has it: it was killed at the earliest moment that is seen, adopted.
	testutil.Eventually(t, "somebody answers", func() bool {
		_, err := fdpass(t, path, nil, "list")
		return err == nil
	})
	mustHave(t, path, inodes)
	_ = second.Process.Signal(syscall.SIGTERM)
	second.mustEndWell()
}

// A full descriptor table refuses, says so, and drops nothing.
func TestHoldFullTable(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	h := hold(t, path)
	inodes := fill(t, path, 20)
	ok := must(t)
	var old unix.Rlimit
	if err := unix.Prlimit(h.Process.Pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{}
	for _, e := range entries {
		open[e.Name()] = true
	}
	free := 0 // the lowest number
	for open[strconv.Itoa(free)] {
		free++
	}
	full := old
	full.Cur = uint64(free) + 3
	if err := unix.Prlimit(h.Process.Pid, unix.RLIMIT_NOFILE, &full, nil); err != nil {
		t.Fatal(err)
	}
	// The last places are taken first.
	f := aMemfd(t, "filler")
	defer f.Close()
	var st syscall.Stat_t
	_ = syscall.Fstat(int(f.Fd()), &st)
	// Until none is taken from three in a row: a place may become free when a connection ends.
	stored, refused := 0, 0
	for ; refused < 3 && stored < 100; stored++ {
		name := fmt.Sprintf("filler-%d", stored)
		out, err := fdpass(t, path, f, "store", name)
		if err == nil {
			inodes[name], refused = st.Ino, 0
			continue
		}
		refused++
		mustFail(t, 1, `store "filler-\d+": the holder's descriptor table is full \(its RLIMIT_NOFILE\)`)(out, err)
	}
	if refused < 3 {
		t.Fatal("the table is not full")
	}
	if out, err := command(t, f, "s6-fdholder-store", path, "of-s6"); err == nil {
		inodes["of-s6"] = st.Ino
	} else {
		mustFail(t, 1, "Too many open files|No file descriptors available")(out, err)
	}
	if out := ok(fdpass(t, path, nil, "list")); strings.Count(out, "\n") != len(inodes) {
		t.Errorf("with a full table it lists %d of %d", strings.Count(out, "\n"), len(inodes))
	}
	// A holder with so low a limit waits while this user has more than that in flight, in other tests.
	if out := ok(fdpass(t, path, nil, "retrieve", "--timeout", "2m", "memfd-7", "--", "readlink", "/proc/self/fd/0")); out != "/memfd:memfd-7 (deleted)\n" {
		t.Errorf("with a full table: %q", out)
	}
	mustHave(t, path, inodes)
	if err := unix.Prlimit(h.Process.Pid, unix.RLIMIT_NOFILE, &old, nil); err != nil {
		t.Fatal(err)
	}
	ok(fdpass(t, path, f, "store", "there-is-room"))
	_ = h.Process.Signal(syscall.SIGTERM)
	h.mustEndWell()
}

// Rules let others in, for some names. Who is refused does not even learn names.
func TestHoldAccess(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.NoLeaks(t)
	dir, err := os.MkdirTemp("", "fdpass-access-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	hold(t, path, "--quota", "2", "--allow", "uid:4242=list,retrieve:^public-", "--allow", "uid:4242=store:^mine-", "--allow", "gid:777=dump:^public-")
	ok := must(t)
	f := aMemfd(t, "x")
	defer f.Close()
	ok(fdpass(t, path, f, "store", "public-1"))
	ok(fdpass(t, path, f, "store", "secret"))
	as := func(uid, gid uint32, stdin *os.File, name string, args ...string) (string, error) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		return runCommand(cmd, path, stdin)
	}
	us := func(stdin *os.File, args ...string) (string, error) {
		t.Helper()
		return as(4242, 4242, stdin, binary(t), args...)
	}
	if out := ok(us(nil, "list")); out != "public-1\n" {
		t.Errorf("it sees %q", out)
	}
	if out := ok(us(nil, "retrieve", "public-1", "--", "readlink", "/proc/self/fd/0")); out != "/memfd:x (deleted)\n" {
		t.Errorf("it gets %q", out)
	}
	for _, name := range []string{"secret", "secret-that-is-not-there"} {
		mustFail(t, 1, "the holder does not allow it to this user")(us(nil, "retrieve", name, "--", "true"))
		mustFail(t, 1, "the holder does not allow it to this user")(us(f, "store", name))
		mustFail(t, 1, "the holder does not allow it to this user")(us(nil, "delete", name))
	}
	mustFail(t, 1, "does not allow")(us(nil, "retrieve", "--delete", "public-1", "--", "true"))
	mustFail(t, 1, "Operation not permitted")(as(4242, 4242, nil, testutil.NeedProgram(t, "s6-fdholder-getdump"), path, "true"))
	ok(us(f, "store", "mine-1"))
	ok(us(f, "store", "mine-2"))
	mustFail(t, 1, "this user holds as many descriptors as it may")(us(f, "store", "mine-3"))
	ok(us(nil, "delete", "mine-1"))

	out, err := as(4243, 4243, nil, binary(t), "list")
	mustFail(t, 1, "list: the holder does not allow it to this user")(out, err)
	if out != "" {
		t.Errorf("one that is refused learns %q", out)
	}
	out, err = as(4243, 4243, nil, testutil.NeedProgram(t, "s6-fdholder-list"), path)
	if err == nil || out != "" {
		t.Errorf("one that is refused: %q %v", out, err)
	}
	if out := ok(as(4243, 777, nil, testutil.NeedProgram(t, "s6-fdholder-getdump"), path, "sh", "-c", `echo "$S6_FDID_0 $S6_FDID_1"`)); out != "public-1 \n" {
		t.Errorf("a member of the group gets %q", out)
	}

	// Without rules nobody else can even connect.
	path += "2"
	hold(t, path)
	mustFail(t, 1, "permission denied")(us(nil, "list"))
}
