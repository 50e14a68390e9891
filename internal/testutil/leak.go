//go:build unix

package testutil

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NoLeaks fails the test if at its end other descriptors are open than now, and says which. The
// collector is off meanwhile: a finalizer that closes a forgotten file would hide the leak. Call
// it first, so that it checks after all other cleanups.
func NoLeaks(t testing.TB) {
	t.Helper()
	startPoller(t)
	percent := debug.SetGCPercent(-1)
	awaitFinalizers()
	before := Open(t)
	t.Cleanup(func() {
		t.Helper()
		// A goroutine that a Close has woken may still hold the number for a moment.
		after := Open(t)
		for end := time.Now().Add(30 * time.Second); !equal(before, after) && time.Now().Before(end); after = Open(t) {
			time.Sleep(5 * time.Millisecond)
		}
		debug.SetGCPercent(percent)
		for fd, what := range after {
			if before[fd] != what {
				t.Errorf("leaked descriptor %d: %s", fd, what)
			}
		}
		for fd, what := range before {
			if _, open := after[fd]; !open {
				t.Errorf("closed a descriptor of somebody else, %d: %s", fd, what)
			}
		}
	})
}

// awaitFinalizers returns when what the collector has found is finalized: what tests before this one have forgotten is
// not closed during this one.
func awaitFinalizers() {
	counts := []metrics.Sample{
		{Name: "/gc/finalizers/queued:finalizers"}, {Name: "/gc/finalizers/executed:finalizers"},
		{Name: "/gc/cleanups/queued:cleanups"}, {Name: "/gc/cleanups/executed:cleanups"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(counts)
	if n := counts[4].Value.Uint64(); collections.Load() != n {
		runtime.GC() // to the end of its sweep, which is what queues them
		metrics.Read(counts)
		collections.Store(counts[4].Value.Uint64())
	}
	waits := func(queued, executed metrics.Sample) bool { return queued.Value.Uint64() > executed.Value.Uint64() }
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if metrics.Read(counts); !waits(counts[0], counts[1]) && !waits(counts[2], counts[3]) {
			return
		}
	}
}

var collections atomic.Uint64 // until the last awaitFinalizers

// Open returns the open descriptors of this process, each with a description: what it is, its
// inode, and for a socket its style and whether it listens.
func Open(t testing.TB) map[int]string {
	t.Helper()
	open := map[int]string{}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, e := range entries {
			fd, _ := strconv.Atoi(e.Name())
			if what, ok := describe(fd); ok {
				open[fd] = what
			}
		}
		return open
	}
	for fd := range 4096 { // no /proc
		if what, ok := describe(fd); ok {
			open[fd] = what
		}
	}
	return open
}

// Count returns the number of open descriptors.
func Count(t testing.TB) int {
	t.Helper()
	return len(Open(t))
}

func describe(fd int) (string, bool) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return "", false // the folder itself, closed by now
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		link = fmt.Sprintf("mode %o", st.Mode)
	}
	if strings.HasPrefix(link, "/proc/") && strings.HasSuffix(link, "/fd") {
		return "", false
	}
	what := fmt.Sprintf("%s (device %d, inode %d)", link, st.Dev, st.Ino)
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		style, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		local, _ := unix.Getsockname(fd)
		what += fmt.Sprintf(", type %d, listens %d, address %+v", style, listens, deref(local))
	}
	return what, true
}

func deref(a unix.Sockaddr) any {
	switch a := a.(type) {
	case *unix.SockaddrUnix:
		return a.Name
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return a
}

func equal(a, b map[int]string) bool {
	if len(a) != len(b) {
		return false
	}
	for fd := range a {
		if _, ok := b[fd]; !ok {
			return false
		}
	}
	return true
}

// startPoller lets the runtime open what it needs for waiting, which is not the test's.
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

// SameFile reports whether two descriptors are the same file: the same device and inode.
func SameFile(t testing.TB, a, b int) bool {
	t.Helper()
	var sa, sb unix.Stat_t
	if err := unix.Fstat(a, &sa); err != nil {
		t.Errorf("fstat %d: %v", a, err)
		return false
	}
	if err := unix.Fstat(b, &sb); err != nil {
		t.Errorf("fstat %d: %v", b, err)
		return false
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// Eventually polls until ok, for what no event tells, and fails the test after a minute.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("did not happen in a minute: %s", what)
		}
	}
}

// sorted is for messages.
func sorted(names map[string]bool) []string {
	var s []string
	for name := range names {
		s = append(s, name)
	}
	slices.Sort(s)
	return s
}
