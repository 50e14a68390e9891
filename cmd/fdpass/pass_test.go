//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

var pairStyles = []socketpair.Style{socketpair.Stream, socketpair.Datagram, socketpair.SeqPacket}

// A session is a running fdpass.
type session struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

// newSession makes the command; files are its descriptors from 3 up.
func newSession(t testing.TB, files []*os.File, args ...string) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	s := &session{Cmd: exec.CommandContext(ctx, binary(t), args...)}
	s.Stdout, s.Stderr, s.ExtraFiles = &s.stdout, &s.stderr, files
	s.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return s
}

// start starts it; it is reaped at the end at the latest.
func (s *session) start(t testing.TB) {
	t.Helper()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.ProcessState == nil {
			_ = s.Process.Kill()
			_ = s.Wait()
		}
	})
}

// ends waits for it to end with the status.
func (s *session) ends(t testing.TB, status int) {
	t.Helper()
	_ = s.Wait()
	if s.ProcessState.ExitCode() != status {
		t.Fatalf("%v: %v, want status %d\n%s%s", s.Args[1:], s.ProcessState, status, s.stdout.String(), s.stderr.String())
	}
}

func (s *session) run(t testing.TB, status int) {
	t.Helper()
	s.start(t)
	s.ends(t, status)
}

// pairFor makes a pair, one end of which is a file for the program.
func pairFor(t testing.TB, style socketpair.Style) (*scm.Conn, *os.File) {
	t.Helper()
	parent, child, err := socketpair.ForChild(style)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := scm.NewConn(parent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		child.Close()
	})
	return conn, child
}

func openFiles(t testing.TB, n int) []*os.File {
	t.Helper()
	files := make([]*os.File, n)
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "file")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files[i] = f
	}
	return files
}

func nonblocking(t testing.TB, c syscall.Conn) bool {
	t.Helper()
	info, err := scm.Inspect(c)
	if err != nil {
		t.Fatal(err)
	}
	return info.Nonblocking
}

func lent(t testing.TB, c syscall.Conn) (fd int) {
	t.Helper()
	if err := sysfd.Control(c, func(n int) error { fd = n; return nil }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// A pair that the parent made: what is sent arrives, with the sender's credentials, and the end that the
// program inherited is in blocking mode as before, also while it waits.
func TestSendOverInheritedSocket(t *testing.T) {
	binary(t)
	for _, style := range pairStyles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			conn, child := pairFor(t, style)
			if err := conn.SetPassCred(true); err != nil {
				t.Fatal(err)
			}
			files := openFiles(t, 2)
			s := newSession(t, append([]*os.File{child}, files...), "send", "--fd", "3", "--data", "hello", "--timeout", "2m", "5", "4")
			s.run(t, 0)
			m, err := conn.Receive(make([]byte, 100), 2)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if string(m.Data) != "hello" || m.Files.Len() != 2 {
				t.Fatalf("%q and %d descriptors", m.Data, m.Files.Len())
			}
			for i, f := range []*os.File{files[1], files[0]} {
				if !testutil.SameFile(t, lent(t, m.Files.Lend(i)), lent(t, f)) {
					t.Errorf("descriptor %d is another file", i)
				}
			}
			if m.Sender == nil || m.Sender.PID != s.Process.Pid || m.Sender.UID != uint32(os.Geteuid()) {
				t.Errorf("the sender is %v, want pid %d", m.Sender, s.Process.Pid)
			}
			if nonblocking(t, child) {
				t.Error("the inherited socket became nonblocking")
			}
			if on, err := unix.GetsockoptInt(lent(t, child), unix.SOL_SOCKET, unix.SO_PASSCRED); err != nil || on != 0 {
				t.Errorf("SO_PASSCRED stayed on: %d, %v", on, err)
			}
		})
	}
}

// A socket that is full is waited for, no longer than told, and in the mode that it has.
func TestSendToFullSocket(t *testing.T) {
	binary(t)
	for _, style := range pairStyles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			conn, child := pairFor(t, style)
			full := 0
			for fd := lent(t, child); unix.Sendmsg(fd, make([]byte, 1000), nil, nil, unix.MSG_DONTWAIT) == nil; full++ {
			}
			s := newSession(t, []*os.File{child}, "send", "--fd", "3", "--timeout", "100ms", "0")
			s.run(t, exitTimeout)
			if nonblocking(t, child) {
				t.Error("the inherited socket became nonblocking")
			}
			s = newSession(t, []*os.File{child}, "send", "--fd", "3", "--timeout", "2m", "--data", "at last", "0")
			s.start(t)
			waits(t, s.Process)
			for i := 0; i < 1000*full; { // a stream does not keep the messages apart
				m, err := conn.Receive(make([]byte, 1000), 0)
				if err != nil {
					t.Fatal(err)
				}
				i += len(m.Data)
			}
			s.ends(t, 0)
			m, err := conn.Receive(make([]byte, 1000), 1)
			if err != nil || string(m.Data) != "at last" || m.Files.Len() != 1 {
				t.Errorf("%q, %v", m.Data, err)
			}
			m.Close()
			if nonblocking(t, child) {
				t.Error("the inherited socket became nonblocking")
			}
		})
	}
}

// waits returns when the process waits in poll(2).
func waits(t testing.TB, p *os.Process) {
	t.Helper()
	awaitCall(t, p, "it waits in poll(2)", func(call string) bool {
		number, _, _ := strings.Cut(call, " ")
		return pollNumbers[number]
	})
}

// awaitCall returns when a thread of the process is in such a system call, proc_pid_syscall(5).
func awaitCall(t testing.TB, p *os.Process, what string, such func(call string) bool) {
	t.Helper()
	testutil.Eventually(t, what, func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", p.Pid))
		for _, task := range tasks {
			if call, err := os.ReadFile(task); err == nil && such(string(call)) {
				return true
			}
		}
		return false
	})
}

// x/sys calls poll(2) or, where there is only that, ppoll(2).
var pollNumbers = map[string]bool{fmt.Sprint(unix.SYS_PPOLL): true, map[string]string{"amd64": "7", "386": "168"}[runtime.GOARCH]: true}

func TestRecvOverInheritedSocket(t *testing.T) {
	binary(t)
	for _, style := range pairStyles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			conn, child := pairFor(t, style)
			file := openFiles(t, 1)[0]
			s := newSession(t, []*os.File{child}, "recv", "--fd", "3", "--count", "1", "--json", "--timeout", "2m",
				"--peer-uid", fmt.Sprint(os.Geteuid()), "--peer-pid", fmt.Sprint(os.Getpid()))
			s.start(t)
			waits(t, s.Process)
			if nonblocking(t, child) {
				t.Error("the inherited socket became nonblocking while it waits")
			}
			if err := conn.Send([]byte("\xff"), file); err != nil {
				t.Fatal(err)
			}
			s.ends(t, 0)
			var m messageJSON
			if err := json.Unmarshal(s.stdout.Bytes(), &m); err != nil {
				t.Fatalf("%v in %s", err, s.stdout.String())
			}
			if m.Data != nil || *m.DataBase64 != "/w==" || len(m.Descriptors) != 1 || m.Descriptors[0].Name != file.Name() {
				t.Errorf("%s", s.stdout.String())
			}
			if m.From == nil || m.From.PID != os.Getpid() {
				t.Errorf("from %+v", m.From)
			}
			if nonblocking(t, child) {
				t.Error("the inherited socket became nonblocking")
			}
		})
	}
}

// What was sent before recv was there carries no credentials, and nobody else's will do.
func TestRecvRefusesSender(t *testing.T) {
	testutil.NoLeaks(t)
	conn, child := pairFor(t, socketpair.SeqPacket)
	if err := conn.Send([]byte("early")); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, []*os.File{child}, "recv", "--fd", "3", "--same-user", "--timeout", "2m")
	s.run(t, 1)
	if !strings.Contains(s.stderr.String(), "it was sent before recv was there") || s.stdout.Len() != 0 {
		t.Errorf("%s%s", s.stdout.String(), s.stderr.String())
	}
	if err := conn.SetPassCred(true); err != nil { // so that the kernel stamps what it sends
		t.Fatal(err)
	}
	if err := conn.Send([]byte("stranger"), openFiles(t, 1)[0]); err != nil {
		t.Fatal(err)
	}
	s = newSession(t, []*os.File{child}, "recv", "--fd", "3", "--peer-uid", "77777", "--timeout", "2m")
	s.run(t, 1)
	if !strings.Contains(s.stderr.String(), "it is not uid 77777") || s.stdout.Len() != 0 {
		t.Errorf("%s%s", s.stdout.String(), s.stderr.String())
	}
}

// The standard input may be the socket, and what is run does not get it.
func TestRecvStandardInput(t *testing.T) {
	testutil.NoLeaks(t)
	conn, child := pairFor(t, socketpair.Stream)
	s := newSession(t, nil, "recv", "--fd", "0", "--timeout", "2m", "--", binary(t), "inspect")
	s.Stdin = child
	s.start(t)
	if err := conn.Send([]byte("x"), openFiles(t, 1)[0]); err != nil {
		t.Fatal(err)
	}
	if err := conn.NetConn().CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 0)
	lines := strings.Split(strings.TrimSpace(s.stdout.String()), "\n")
	if len(lines) != 5 || !strings.Contains(lines[1], "/dev/null") || !strings.HasPrefix(lines[4], "3 ") {
		t.Errorf("%s", s.stdout.String())
	}
}

// More than one message carries, and more than is permitted.
func TestManyDescriptors(t *testing.T) {
	testutil.NoLeaks(t)
	dir := testutil.ShortDir(t)
	path := filepath.Join(dir, "x.sock")
	args := func(n int, more ...string) []string {
		a := append([]string{"send", "--connect", path, "--timeout", "2m"}, more...)
		for range n {
			a = append(a, "file:/")
		}
		return a
	}
	s := newSession(t, nil, args(254)...)
	s.run(t, 2)
	if s.stderr.String() != "fdpass: 254 descriptors: one message carries 253; --split sends several\n" {
		t.Errorf("%s", s.stderr.String())
	}
	for _, c := range []struct {
		n        int
		messages int
		send     []string
	}{
		{253, 1, nil},
		{254, 2, []string{"--split", "--data", "together"}},
		{600, 3, []string{"--split", "--data", "together"}},
	} {
		out := filepath.Join(dir, "data")
		r := newSession(t, nil, "recv", "--listen", path, "--timeout", "2m", "--style", "seqpacket", "--json", "--data-file", out)
		r.start(t)
		newSession(t, nil, args(c.n, append(c.send, "--style", "seqpacket")...)...).run(t, 0)
		r.ends(t, 0)
		d, total, messages := json.NewDecoder(&r.stdout), 0, 0
		for ; ; messages++ {
			var m messageJSON
			if err := d.Decode(&m); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			total += len(m.Descriptors)
		}
		if total != c.n || messages != c.messages {
			t.Errorf("%d: %d descriptors in %d messages", c.n, total, messages)
		}
		if data, err := os.ReadFile(out); err != nil || c.send != nil && string(data) != "together" {
			t.Errorf("%d: the data is %q, %v", c.n, data, err)
		}
	}
	r := newSession(t, nil, "recv", "--listen", path, "--timeout", "2m", "--limit", "3")
	r.start(t)
	newSession(t, nil, args(4)...).run(t, 0)
	r.ends(t, 1)
	if want := "--limit is 3"; !strings.Contains(r.stderr.String(), want) || r.stdout.Len() != 0 {
		t.Errorf("%s%s", r.stdout.String(), r.stderr.String())
	}
	if s := newSession(t, nil, args(600, "--split", "--data", "ab")...); true {
		s.run(t, 1)
		if s.stderr.String() != "fdpass: 2 bytes of data for 3 messages: each has at least one\n" {
			t.Errorf("%s", s.stderr.String())
		}
	}
}

// What the file had stays until there is something else, and then nothing of it.
func TestRecvKeepsFile(t *testing.T) {
	testutil.NoLeaks(t)
	out := write(t, filepath.Join(t.TempDir(), "data"), "what it had")
	for _, want := range []string{"what it had", "new"} {
		conn, child := pairFor(t, socketpair.Stream)
		s := newSession(t, []*os.File{child}, "recv", "--fd", "3", "--timeout", "2m", "--data-file", out)
		code := 1 // closed without a message
		if want == "new" {
			code = 0
			if err := conn.Send([]byte(want)); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		s.run(t, code)
		if data, err := os.ReadFile(out); err != nil || string(data) != want {
			t.Errorf("the file has %q, %v; want %q", data, err, want)
		}
	}
}

// A full table is told, and not taken for the message.
func TestRecvFullTable(t *testing.T) {
	testutil.NoLeaks(t)
	conn, child := pairFor(t, socketpair.Stream)
	if err := conn.Send([]byte("x"), make30(openFiles(t, 1)[0])...); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, []*os.File{child}, "-c", "ulimit -n 20; exec \"$0\" recv --fd 3 --timeout 20s", binary(t))
	s.Path = testutil.NeedProgram(t, "sh")
	s.run(t, 1)
	if !strings.Contains(s.stderr.String(), "RLIMIT_NOFILE is 20") || s.stdout.Len() != 0 {
		t.Errorf("%s%s", s.stdout.String(), s.stderr.String())
	}
}

func make30(f *os.File) []syscall.Conn {
	all := make([]syscall.Conn, 30)
	for i := range all {
		all[i] = f
	}
	return all
}

// The socket's path has mode 0600, whatever the umask is, and a stranger who connects where he may is refused
// and told apart from who is waited for.
func TestListenMode(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "x.sock")
	s := newSession(t, nil, "-c", "umask 0; exec \"$0\" recv --listen "+path, binary(t))
	s.Path = testutil.NeedProgram(t, "sh")
	s.start(t)
	testutil.Eventually(t, "the path is there", func() bool {
		info, err := os.Lstat(path)
		if err == nil && info.Mode() != os.ModeSocket|0o600 {
			t.Fatalf("the mode is %v", info.Mode())
		}
		return err == nil
	})
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 128+int(syscall.SIGTERM))
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestListenRefusesPeer(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "x.sock")
	r := newSession(t, nil, "recv", "--listen", path, "--timeout", "2m", "--peer-pid", fmt.Sprint(os.Getpid()))
	r.Stderr = nil
	stderr, err := r.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.start(t)
	s := newSession(t, nil, "send", "--connect", path, "--timeout", "2m", "0")
	s.start(t)
	_ = s.Wait() // it may be refused before it has sent, or after
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if want := fmt.Sprintf("fdpass: refused by policy: pid %d uid %d gid %d is not pid %d\n", s.Process.Pid, os.Geteuid(), os.Getegid(), os.Getpid()); line != want {
		t.Errorf("%q, %v, want %q", line, err, want)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("the right one")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	r.ends(t, 0)
	if r.stdout.String() != "data  \"the right one\"\n" {
		t.Errorf("%s", r.stdout.String())
	}
}

// A path that is somebody else's by now stays.
func TestListenLeavesOthersPath(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "x.sock")
	s := newSession(t, nil, "recv", "--listen", path)
	s.start(t)
	testutil.Eventually(t, "the path is there", func() bool { _, err := os.Lstat(path); return err == nil })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := s.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 130)
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// Python's own functions for it are the other end.
func TestPythonPeer(t *testing.T) {
	testutil.NoLeaks(t)
	python := testutil.NeedProgram(t, "python3")
	path := filepath.Join(testutil.ShortDir(t), "x.sock")
	r := newSession(t, nil, "recv", "--listen", path, "--timeout", "2m", "--", "sh", "-c", "cat <&4; cat <&3")
	r.start(t)
	testutil.Eventually(t, "the path is there", func() bool { _, err := os.Lstat(path); return err == nil })
	script := `
import socket, sys, tempfile
c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])
files = [tempfile.TemporaryFile() for _ in range(2)]
for f, text in zip(files, [b"first", b"second"]): f.write(text); f.seek(0)
socket.send_fds(c, [b"hello"], [f.fileno() for f in files])`
	if out, err := exec.Command(python, "-c", script, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.ends(t, 0)
	if r.stdout.String() != "secondfirst" {
		t.Errorf("%q", r.stdout.String())
	}

	s := newSession(t, nil, "send", "--listen", path, "--timeout", "2m", "--data", "hello", "file:/", "file:/dev/null")
	s.start(t)
	testutil.Eventually(t, "the path is there", func() bool { _, err := os.Lstat(path); return err == nil })
	script = `
import os, socket, sys
c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])
data, fds, flags, _ = socket.recv_fds(c, 100, 5)
print(data, [os.path.samestat(os.fstat(f), os.stat(p)) for f, p in zip(fds, ["/", "/dev/null"])])`
	out, err := exec.Command(python, "-c", script, path).CombinedOutput()
	if err != nil || string(out) != "b'hello' [True, True]\n" {
		t.Errorf("%v: %s", err, out)
	}
	s.ends(t, 0)
}

// Inspect says of a socket what the kernel says in this process.
func TestInspectSockets(t *testing.T) {
	testutil.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a, b, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if _, err := a.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	listener := duplicate(t, ln.(*net.TCPListener))
	defer listener.Close()
	// The last part of the handshake is not the work of the client.
	testutil.Eventually(t, "the connection waits to be accepted", func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(lent(t, listener)), Events: unix.POLLIN}}, 0)
		return n == 1 && err == nil
	})
	s := newSession(t, []*os.File{listener, duplicate(t, client.(*net.TCPConn)), b}, "inspect", "--json", "3", "4", "5")
	defer s.ExtraFiles[1].Close()
	s.run(t, 0)
	var got []descriptor
	if err := json.Unmarshal(s.stdout.Bytes(), &got); err != nil || len(got) != 3 {
		t.Fatalf("%v in %s", err, s.stdout.String())
	}
	if l := got[0].Socket; !l.Listening || !strings.HasSuffix(l.Protocol, "tcp") || l.Local != ln.Addr().String() || l.Queue == nil || *l.Queue != 1 || l.Cookie != cookie(t, ln.(*net.TCPListener)) {
		t.Errorf("the listener: %+v", l)
	}
	if c := got[1].Socket; c.Listening || c.Local != client.LocalAddr().String() || c.Remote != ln.Addr().String() {
		t.Errorf("the connection: %+v", c)
	}
	if p := got[2]; p.Socket.Type != "seqpacket" || p.Socket.Domain != "unix" || *p.Unread != 5 || p.Nonblocking || p.Access != "rw" {
		t.Errorf("the end of a pair: %+v", p)
	}
	if !got[0].Nonblocking {
		t.Error("package net's sockets are nonblocking")
	}
}

// duplicate makes another number for a socket.
func duplicate(t testing.TB, c syscall.Conn) *os.File {
	t.Helper()
	fd, err := sysfd.Ask(c, sysfd.Dup)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "duplicate")
}

func cookie(t testing.TB, c syscall.Conn) uint64 {
	t.Helper()
	info, err := scm.Inspect(c)
	if err != nil {
		t.Fatal(err)
	}
	return info.Socket.Cookie
}
