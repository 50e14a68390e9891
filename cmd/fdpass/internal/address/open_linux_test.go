package address

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
)

func open(t *testing.T, s string, o Options) *Socket {
	t.Helper()
	a, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := a.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := socket.Remove(); err != nil {
			t.Error(err)
		}
		socket.Close()
	})
	return socket
}

func refused(t *testing.T, s string, want error) {
	t.Helper()
	a, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	if socket, err := a.Open(Options{}); !errors.Is(err, want) {
		t.Errorf("%s: %v, %v; want %v", s, socket, err, want)
	} else if !strings.HasPrefix(err.Error(), "open "+a.String()+": ") {
		t.Errorf("%v does not say what it is about", err)
	}
}

func option(t *testing.T, fd, level, name int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestOpenInternet(t *testing.T) {
	testutil.NoLeaks(t)
	for _, nonblock := range []bool{false, true} {
		s := open(t, "web=tcp://127.0.0.1:0", Options{Nonblock: nonblock})
		flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 != nonblock {
			t.Errorf("flags %#x, %v; want nonblocking %v", flags, err, nonblock)
		}
		if flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFD, 0); err != nil || flags != unix.FD_CLOEXEC {
			t.Errorf("descriptor flags %d, %v", flags, err)
		}
		if option(t, s.FD, unix.SOL_SOCKET, unix.SO_ACCEPTCONN) != 1 || option(t, s.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR) != 1 {
			t.Error("does not listen, or without SO_REUSEADDR")
		}
		c, err := net.Dial("tcp", s.Bound)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if s.Written() != s.Bound {
			t.Errorf("the port that the system chose is not in %s", s.Written())
		}
		refused(t, "tcp://"+s.Bound, unix.EADDRINUSE)
	}
	udp := open(t, "udp://127.0.0.1:0", Options{})
	if option(t, udp.FD, unix.SOL_SOCKET, unix.SO_TYPE) != unix.SOCK_DGRAM {
		t.Error("not a datagram socket")
	}
	all := open(t, "tcp://:0", Options{})
	_, port, _ := net.SplitHostPort(all.Bound)
	for _, host := range []string{"127.0.0.1", "::1"} {
		if host == "::1" && !haveIPv6() {
			continue
		}
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("no host is all hosts: %v", err)
			continue
		}
		c.Close()
	}
}

// The queue is as long as the system allows. What is more, the kernel reports in ss(8) only, so it is filled.
func TestBacklog(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	open(t, "unix:"+path, Options{Backlog: 2, Nonblock: true})
	queued := 0
	for range 10 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			queued++
		}
	}
	if queued != 3 { // the kernel allows one more
		t.Errorf("%d wait with a backlog of 2", queued)
	}
}

func TestOpenPath(t *testing.T) {
	testutil.NoLeaks(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for network, style := range map[string]int{"unix": unix.SOCK_STREAM, "unixpacket": unix.SOCK_SEQPACKET, "unixgram": unix.SOCK_DGRAM} {
		path := filepath.Join(testutil.ShortDir(t), "s")
		s := open(t, network+":"+path, Options{Mode: 0o626})
		if got := option(t, s.FD, unix.SOL_SOCKET, unix.SO_TYPE); got != style {
			t.Errorf("%s is of type %d", network, got)
		}
		st, err := os.Lstat(path)
		if err != nil || st.Mode().Perm() != 0o626 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
		if mask := unix.Umask(0o077); mask != 0o077 {
			t.Errorf("the umask is %o now", mask)
		}
		refused(t, network+":"+path, unix.EADDRINUSE)
		other := map[string]string{"unix": "unixgram", "unixpacket": "unix", "unixgram": "unixpacket"}[network]
		refused(t, other+":"+path, unix.EADDRINUSE) // served, if in another style

		// One that nobody serves is replaced, and the old Socket does not remove the new path.
		s.Close()
		fresh := open(t, network+":"+path, Options{})
		if err := s.Remove(); err != nil || !fresh.InPlace() {
			t.Errorf("the old one removed the path of the new one: %v", err)
		}
		if s.InPlace() {
			t.Error("the old one thinks it is still in place")
		}
		if err := fresh.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("not removed: %v", err)
		}
	}
}

func TestOpenPathRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	dir := testutil.ShortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "unix:"+file, unix.EADDRINUSE)
	if kept, err := os.ReadFile(file); err != nil || string(kept) != "keep" {
		t.Errorf("the file is %q, %v", kept, err)
	}
	link := filepath.Join(dir, "link")
	target := open(t, "unix:"+filepath.Join(dir, "target"), Options{})
	target.Close()
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	refused(t, "unix:"+link, unix.EADDRINUSE) // not what it points to
	refused(t, "unix:"+filepath.Join(dir, "none", "s"), unix.ENOENT)
	refused(t, "unix:"+filepath.Join(dir, strings.Repeat("x", 108)), unix.EINVAL)
}

// Ten open one stale path at once: one gets it.
func TestOpenPathOnce(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "s")
	a := Address{Network: "unix", Where: path}
	stale, err := a.Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	stale.Close()
	sockets, errs := make([]*Socket, 10), make([]error, 10)
	done := make(chan bool)
	for i := range sockets {
		go func() {
			sockets[i], errs[i] = a.Open(Options{})
			done <- true
		}()
	}
	for range sockets {
		<-done
	}
	opened := 0
	for i, s := range sockets {
		if errs[i] == nil {
			opened++
			if !s.InPlace() {
				t.Error("the one that opened it does not have the path")
			}
			defer s.Close()
		} else if !errors.Is(errs[i], unix.EADDRINUSE) {
			t.Error(errs[i])
		}
	}
	if opened != 1 {
		t.Errorf("%d opened it", opened)
	}
}

// Whoever can read a folder can have it locked for ever, and keeps nobody from opening or removing a path.
func TestOpenPathInLockedFolder(t *testing.T) {
	testutil.NoLeaks(t)
	dir := testutil.ShortDir(t)
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := sysfd.Control(lock, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) }); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() {
		t.Error("it waits for the lock")
		_ = sysfd.Control(lock, func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
	})
	defer late.Stop()
	path := filepath.Join(dir, "s")
	s, err := Address{Network: "unix", Where: path}.Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the path is left")
	}
}

func TestAbstractAndInherited(t *testing.T) {
	testutil.NoLeaks(t)
	name := fmt.Sprintf("@fdpass-test-%d", os.Getpid())
	s := open(t, name, Options{})
	if s.Bound != name || s.Written() != name {
		t.Errorf("bound to %q, written %q", s.Bound, s.Written())
	}
	refused(t, name, unix.EADDRINUSE)

	fd, err := unix.Dup(s.FD)
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, "x=fd:"+strconv.Itoa(fd), Options{Nonblock: true})
	flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	mode, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if again.FD != fd || again.Bound != name || !again.AtPath() || flags != unix.FD_CLOEXEC || mode&unix.O_NONBLOCK != 0 {
		t.Errorf("%+v, flags %d, mode %#x: the number is taken as it is, but close-on-exec", again, flags, mode)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	refused(t, fmt.Sprintf("fd:%d", r.Fd()), unix.ENOTSOCK)
	refused(t, "fd:999", unix.EBADF)
}
