//go:build linux

package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// start starts a server of its own on a path, without a service, and returns both.
func start(t testing.TB, limits Limits) (*server, string) {
	t.Helper()
	if limits.Max == 0 {
		limits.Max = 1000
	}
	path := filepath.Join(testutil.ShortDir(t), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(newStore(limits), nil, path, slog.New(slog.DiscardHandler))
	s.set(serving)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.serve(ln) })
	running.Go(func() { s.run(ctx) })
	t.Cleanup(func() {
		_ = ln.Close()
		cancel()
		s.set(ended)
		running.Wait()
		s.active.Wait()
		s.lend()
		s.retain(nil)
		testutil.Eventually(t, "everything is closed", func() bool {
			s.store.mu.Lock()
			defer s.store.mu.Unlock()
			return s.open == 0 && len(s.owned) == 0
		})
	})
	return s, path
}

// dial connects a client that is closed when the test ends.
func dial(t testing.TB, path string) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// pipes returns an end to be stored and one that sees when all copies of that are closed.
func pipes(t testing.TB) (stored, watched *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	return w, r
}

// mustEnd waits until all copies of the other end are closed.
func mustEnd(t testing.TB, watched *os.File) {
	t.Helper()
	_ = watched.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if n, err := watched.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a descriptor that should be closed is open: %d %v", n, err)
	}
}

func wantErrno(t testing.TB, err error, errno syscall.Errno) {
	t.Helper()
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Errno != errno || !errors.Is(err, errno) {
		t.Errorf("%v, want %v", err, errno)
	}
}

func TestStoreAndRetrieve(t *testing.T) {
	testutil.NoLeaks(t)
	_, path := start(t, Limits{})
	c := dial(t, path)
	w, r := pipes(t)
	if err := c.Store("p", Never(time.Now()), w); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, c.Store("p", Never(time.Now()), w), unix.EBUSY)
	fd, err := c.Retrieve("p", false)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := w.SyscallConn()
	_ = raw.Control(func(own uintptr) {
		if !testutil.SameFile(t, int(own), int(fd)) {
			t.Error("another file")
		}
	})
	_, err = c.Retrieve("q", true)
	wantErrno(t, err, unix.ENOENT)
	wantErrno(t, c.Delete("q"), unix.ENOENT)
	if names, err := c.List(); err != nil || len(names) != 1 || names[0] != "p" {
		t.Errorf("%q %v", names, err)
	}
	for _, name := range []string{"", "a\x00b", string(make([]byte, 256))} {
		if err := c.Store(name, Tain{}, w); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	_ = w.Close()
	_ = fd.Close()
	taken, err := c.Retrieve("p", true)
	if err != nil {
		t.Fatal(err)
	}
	wantErrno(t, c.Delete("p"), unix.ENOENT)
	_ = taken.Close()
	mustEnd(t, r)
}

func TestDeleteCloses(t *testing.T) {
	testutil.NoLeaks(t)
	_, path := start(t, Limits{})
	c := dial(t, path)
	w, r := pipes(t)
	if err := c.Store("p", Never(time.Now()), w); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := c.Delete("p"); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, r)
}

func TestExpiry(t *testing.T) {
	testutil.NoLeaks(t)
	_, path := start(t, Limits{})
	c := dial(t, path)
	later, watchedLater := pipes(t)
	soon, watchedSoon := pipes(t)
	const soonest = time.Second // in which both are stored
	now := time.Now()
	for name, s := range map[string]struct {
		file  *os.File
		after time.Duration
	}{"later": {later, time.Hour}, "soon": {soon, soonest}} {
		if err := c.Store(name, TainOf(now.Add(s.after)), s.file); err != nil {
			t.Fatal(err)
		}
		_ = s.file.Close()
	}
	mustEnd(t, watchedSoon)
	if took := time.Since(now); took < soonest {
		t.Errorf("expired after %v", took)
	}
	_, err := c.Retrieve("soon", false)
	wantErrno(t, err, unix.ENOENT)
	if err := c.Store("soon", Never(now), watchedLater); err != nil { // the name is free
		t.Error(err)
	}
	if all, err := c.Dump(); err != nil || len(all) != 2 || all[0].Name != "later" || all[0].Expiry != TainOf(now.Add(time.Hour)) {
		t.Errorf("%v %v", all, err)
	} else {
		closeDump(all)
	}
}

func TestLimits(t *testing.T) {
	testutil.NoLeaks(t)
	s, path := start(t, Limits{Max: 3, Quota: 2})
	c := dial(t, path)
	w, _ := pipes(t)
	for _, name := range []string{"a", "b"} {
		if err := c.Store(name, Never(time.Now()), w); err != nil {
			t.Fatal(err)
		}
	}
	wantErrno(t, c.Store("c", Never(time.Now()), w), unix.EDQUOT)
	if err := c.Delete("a"); err != nil {
		t.Fatal(err)
	}
	// It counts until it is closed, for which Delete waits a moment only.
	testutil.Eventually(t, "there is room after a delete", func() bool { return c.Store("c", Never(time.Now()), w) == nil })
	// Of another user's.
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if errno := s.add(7, []Entry{{"x", Never(time.Now())}}, []int{null}); errno != 0 {
		t.Fatal(errno)
	}
	wantErrno(t, c.Store("d", Never(time.Now()), w), unix.ENFILE)
	if names, err := c.List(); err != nil || len(names) != 3 {
		t.Errorf("%q %v", names, err)
	}
}

// A restore is refused frame by frame, whole.
func TestRestore(t *testing.T) {
	testutil.NoLeaks(t)
	_, path := start(t, Limits{Max: 1000})
	w, r := pipes(t)
	c := dial(t, path)
	never := Never(time.Now())
	restore := func(c *Client, count int, names ...string) error {
		payload, _, err := c.ask("restore", request{op: opRestore, count: count})
		if err != nil {
			return err
		}
		if len(payload) != 4 {
			t.Errorf("%x", payload)
		}
		var entries []Entry
		var files []syscall.Conn
		for _, name := range names {
			entries, files = append(entries, Entry{name, never}), append(files, w)
		}
		_, _, err = c.ask("restore", request{op: opEntries, entries: entries}, files...)
		return err
	}
	wantErrno(t, restore(c, 2, "a"), unix.EAGAIN) // go on
	if _, _, err := c.ask("restore", request{op: opEntries, entries: []Entry{{"b", never}}}, w); err != nil {
		t.Errorf("the last one: %v", err)
	}
	wantErrno(t, restore(c, 2, "c", "a"), unix.EBUSY)
	wantErrno(t, restore(c, 2, "d", "d"), unix.EBUSY)
	wantErrno(t, restore(c, 1001, "e"), unix.ENFILE)
	if names, err := c.List(); err != nil || len(names) != 2 {
		t.Errorf("%q %v", names, err)
	}
	for what, err := range map[string]error{
		"more than announced": restore(dial(t, path), 1, "f", "g"),
		"a list in the middle": func() error {
			c := dial(t, path)
			if err := restore(c, 3, "h"); !errors.Is(err, unix.EAGAIN) {
				t.Error(err)
			}
			_, err := c.List()
			return err
		}(),
		"entries outside": func() error {
			_, _, err := dial(t, path).ask("restore", request{op: opEntries, entries: []Entry{{"i", never}}}, w)
			return err
		}(),
	} {
		if !errors.Is(err, io.EOF) && !errors.Is(err, scm.ErrPeerGone) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_ = w.Close()
	for _, name := range []string{"a", "b", "h"} {
		if err := c.Delete(name); err != nil {
			t.Error(err)
		}
	}
	mustEnd(t, r)
}

// What breaks the framing closes the connection, and everything that came with it.
func TestHostile(t *testing.T) {
	testutil.NoLeaks(t)
	_, path := start(t, Limits{})
	good := request{op: opStore, name: "x", expiry: Never(time.Now())}
	for what, frame := range map[string]struct {
		bytes []byte
		fds   int
	}{
		"rubbish":                            {[]byte("GET / HTTP/1.1\r\n\r\n"), 1},
		"a header and nothing more":          {appendHeader(nil, 10, 1), 1},
		"half a header":                      {[]byte{0, 0}, 1},
		"descriptors of no frame":            {append(appendHeader(nil, 1, 0), opList), 1},
		"fewer descriptors than said":        {append(appendHeader(nil, len(good.append(nil)), 2), good.append(nil)...), 1},
		"more descriptors than said":         {append(appendHeader(nil, len(good.append(nil)), 1), good.append(nil)...), 2},
		"a frame that is too long":           {appendHeader(nil, 1<<30, 1), 1},
		"253 descriptors for a list":         {append(appendHeader(nil, 1, 253), opList), 253},
		"an empty frame with a descriptor":   {appendHeader(nil, 0, 1), 1},
		"descriptors that a successor knows": {append(appendHeader(nil, 1, 2), opAdopt), 2},
	} {
		w, r := pipes(t)
		c := dial(t, path)
		files := make([]syscall.Conn, frame.fds)
		for i := range files {
			files[i] = w
		}
		if err := c.ch.conn.Send(frame.bytes, files...); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		_ = w.Close()
		_ = c.ch.conn.NetConn().CloseWrite()
		b, err := io.ReadAll(readerOf(c.ch.conn))
		if what == "more descriptors than said" { // a good frame, and then one too many
			if err := dial(t, path).Delete("x"); err != nil {
				t.Error(err)
			}
		} else if err == nil && len(b) > 0 && what != "descriptors of no frame" {
			t.Errorf("%s: it answers %x", what, b)
		}
		mustEnd(t, r)
	}
	if names, err := dial(t, path).List(); err != nil || len(names) > 1 {
		t.Errorf("%q %v", names, err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func readerOf(c *scm.Conn) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, _, err := c.ReceiveFDs(p, nil)
		return n, err
	})
}

// A connection to the holder, kept by the holder, would keep itself.
func TestOwnConnection(t *testing.T) {
	testutil.NoLeaks(t)
	_, path := start(t, Limits{})
	c, other := dial(t, path), dial(t, path)
	wantErrno(t, c.Store("other", Never(time.Now()), other.ch.conn), unix.ELOOP)
	if err := c.Store("own", Never(time.Now()), c.ch.conn); !errors.Is(err, scm.ErrNotSendable) {
		t.Errorf("own: %v", err)
	}
	if names, err := c.List(); err != nil || len(names) != 0 {
		t.Errorf("%q %v", names, err)
	}
}

func TestIOURing(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.Need(t, testutil.IOURing)
	_, path := start(t, Limits{})
	ring, err := testutil.IOURingSetup()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ring)
	c := dial(t, path)
	if err := c.Store("ring", Never(time.Now()), FD(ring)); !errors.Is(err, scm.ErrNotSendable) {
		t.Errorf("%v", err)
	}
	if _, err := c.List(); err != nil {
		t.Errorf("the connection goes on: %v", err)
	}
}

// Sockets whose close(2) waits hold up nobody but other closes of the same user, and count until they
// are closed.
func TestLingeringClose(t *testing.T) {
	testutil.NoLeaks(t)
	// A close that waits ends when its thread gets a signal, and the runtime preempts by SIGURG.
	if calm := "asyncpreemptoff=1"; !strings.Contains(os.Getenv("GODEBUG"), calm) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestLingeringClose$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+calm)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestLingeringClose") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	s, path := start(t, Limits{Max: closersPerUser + 3})
	c := dial(t, path)
	var peers []int
	for i := range closersPerUser + 2 {
		lingering, peer, err := testutil.Linger()
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, peer)
		err = c.Store(fmt.Sprint(i), Never(time.Now()), FD(lingering))
		_ = unix.Close(lingering) // it is the holder's alone now
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range peers {
		if err := c.Delete(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	w, _ := pipes(t)
	if err := c.Store("w", Never(time.Now()), w); err != nil {
		t.Errorf("while others are being closed: %v", err)
	}
	wantErrno(t, c.Store("v", Never(time.Now()), w), unix.ENFILE)
	s.closer.mu.Lock()
	if u := s.closer.users[uint32(os.Geteuid())]; u == nil || u.running != closersPerUser {
		t.Errorf("closing %+v", u)
	}
	s.closer.mu.Unlock()
	for _, p := range peers {
		_ = unix.Close(p) // with unread data: a reset
	}
	testutil.Eventually(t, "there is room again", func() bool { return c.Store("v", Never(time.Now()), w) == nil })
}

// One user has so many connections, and hears why it does not get more.
func TestConnectionsPerUser(t *testing.T) {
	testutil.NoLeaks(t)
	s, path := start(t, Limits{})
	var all []*Client
	for range maxConnectionsPerUser {
		c := dial(t, path)
		if _, err := c.List(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	_, err := dial(t, path).List()
	wantErrno(t, err, unix.EAGAIN)
	_ = all[0].Close()
	testutil.Eventually(t, "the connection has ended", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.clients) < maxConnectionsPerUser
	})
	if _, err := dial(t, path).List(); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

// While the server is frozen, requests wait. When it has handed over, connections go to the successor,
// with what was read of them and with their place in a restore.
func TestPassOn(t *testing.T) {
	testutil.NoLeaks(t)
	old, oldPath := start(t, Limits{})
	successor, path := start(t, Limits{})
	old.path = path // there
	w, _ := pipes(t)
	never := Never(time.Now())

	idle, restoring, waiting, slow := dial(t, oldPath), dial(t, oldPath), dial(t, oldPath), dial(t, oldPath)
	if _, err := idle.List(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := restoring.ask("restore", request{op: opRestore, count: 300}); err != nil {
		t.Fatal(err)
	}
	number := old.freeze()
	old.thaw(number - 1) // of an earlier freeze: nothing happens
	frame := func(r request, nfds int) []byte {
		p := r.append(nil)
		return append(appendHeader(nil, len(p), nfds), p...)
	}
	entries := make([]Entry, maxFDs)
	files := make([]syscall.Conn, maxFDs)
	for i := range entries {
		entries[i], files[i] = Entry{fmt.Sprintf("restored %d", i), never}, w
	}
	if err := restoring.ch.conn.Send(frame(request{op: opEntries, entries: entries}, maxFDs), files...); err != nil {
		t.Fatal(err)
	}
	store := frame(request{op: opStore, name: "waited", expiry: never}, 1)
	if err := waiting.ch.conn.Send(store, w); err != nil {
		t.Fatal(err)
	}
	_ = waiting.ch.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := waiting.ch.conn.Receive(make([]byte, 100), 1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a frozen one answers: %v", err)
	}
	_ = waiting.ch.conn.SetReadDeadline(time.Time{})
	half := frame(request{op: opStore, name: "slow", expiry: never}, 1)
	if err := slow.ch.conn.Send(half[:9], w); err != nil {
		t.Fatal(err)
	}
	old.set(handed)
	if err := slow.ch.conn.Send(half[9:]); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*Client{"waiting": waiting, "slow": slow} {
		if _, _, err := c.answer(what, ""); err != nil {
			t.Error(err)
		}
	}
	_, _, err := restoring.answer("restore", "")
	wantErrno(t, err, unix.EAGAIN) // 47 are still to come
	names, err := idle.List()
	if err != nil || len(names) != maxFDs+2 {
		t.Errorf("%d names, %v", len(names), err)
	}
	if n := len(successor.store.ids()); n != maxFDs+2 || len(old.store.ids()) != 0 {
		t.Errorf("the successor has %d, the old one %d", n, len(old.store.ids()))
	}
}

// As many connections as one user may have are passed on, while that user comes with new ones.
func TestPassOnMany(t *testing.T) {
	testutil.NoLeaks(t)
	old, oldPath := start(t, Limits{})
	successor, path := start(t, Limits{})
	old.path = path
	var all, others []*Client
	for range maxConnectionsPerUser {
		c := dial(t, oldPath)
		if _, err := c.List(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		c = dial(t, path)
		if _, err := c.List(); err != nil {
			t.Fatal(err)
		}
		others = append(others, c)
	}
	old.set(handed)
	_ = others[0].Close() // until then there is no place to pass anything on
	for _, c := range all {
		if _, err := c.List(); err != nil {
			t.Fatal(err)
		}
	}
	successor.mu.Lock()
	defer successor.mu.Unlock()
	if n := len(successor.clients); n < 2*maxConnectionsPerUser-1 {
		t.Errorf("the successor has %d clients", n)
	}
}

// One that takes and does not read gets nothing taken away: what cannot be sent stays.
func TestRetrieveFails(t *testing.T) {
	testutil.NoLeaks(t)
	s, path := start(t, Limits{})
	c := dial(t, path)
	w, _ := pipes(t)
	if err := c.Store("p", Never(time.Now()), w); err != nil {
		t.Fatal(err)
	}
	// A socket that takes no descriptors.
	p, q, err := scm.Pair(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	testutil.Need(t, testutil.PassRights)
	if err := q.SetPassRights(false); err != nil {
		t.Fatal(err)
	}
	r := request{op: opRetrieve, name: "p", remove: true}
	payload := r.append(nil)
	if err := q.Send(append(appendHeader(nil, len(payload), 0), payload...)); err != nil {
		t.Fatal(err)
	}
	s.attend(&client{ch: newChannel(p, maxRequest+maxUnread)}) // ends, as the answer cannot be sent
	if names, err := c.List(); err != nil || len(names) != 1 {
		t.Errorf("%q %v", names, err)
	}
	if fd, err := c.Retrieve("p", true); err != nil {
		t.Error(err)
	} else {
		_ = fd.Close()
	}
}

// Whatever a client sends, in whatever pieces, the server ends with what it holds and nothing else.
func FuzzServer(f *testing.F) {
	var conversation []byte
	for _, s := range realRequests {
		b := unhex(f, s)
		f.Add(b, b[5], uint8(7))
		conversation = append(conversation, b...)
	}
	f.Add(conversation, uint8(5), uint8(50))
	startPoller(f)
	f.Fuzz(func(t *testing.T, stream []byte, nfds, piece uint8) {
		s := newServer(newStore(Limits{Max: 20}), nil, "/nonexistent", slog.New(slog.DiscardHandler))
		s.set(serving)
		before := testutil.Count(t)
		p, q, err := scm.Pair(socketpair.Stream)
		if err != nil {
			t.Fatal(err)
		}
		null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			s.attend(&client{ch: newChannel(p, maxRequest+maxUnread)})
			close(ended)
		}()
		_ = q.SetDeadline(time.Now().Add(2 * time.Minute))
		for len(stream) > 0 {
			n := min(len(stream), int(piece)+1)
			fds := make([]int, min(int(nfds), 30))
			for i := range fds {
				fds[i] = null
			}
			if q.SendFDs(stream[:n], fds) != nil {
				break
			}
			stream, nfds = stream[n:], nfds/2
		}
		_ = sysShutdown(q)
		for {
			// The answers, in which the descriptors come.
			m, err := q.Receive(make([]byte, 4096), maxFDs)
			if err != nil {
				break
			}
			_ = m.Close()
		}
		<-ended
		_ = q.Close()
		_ = unix.Close(null)
		s.active.Wait()
		s.retain(nil)
		testutil.Eventually(t, "everything is closed", func() bool { return testutil.Count(t) <= before })
	})
}

func sysShutdown(c *scm.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
}

func startPoller(t testing.TB) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now())
	_ = r.Close()
	_ = w.Close()
}
