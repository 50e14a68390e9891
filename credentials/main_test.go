//go:build linux

package credentials_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// message is what an Exchange sends, as other languages have to.
const message = "fdkit identity 1"

var styles = []socketpair.Style{socketpair.Stream, socketpair.Datagram, socketpair.SeqPacket}

// network is the style's name in package net.
var network = map[socketpair.Style]string{
	socketpair.Stream: "unix", socketpair.Datagram: "unixgram", socketpair.SeqPacket: "unixpacket",
}

// peer is another process. It does what the lines of its standard input say, answers each with a
// line, and ends with its input.
var peer = testutil.NewHelper("peer", func([]string) error {
	p := &actor{}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		answer, err := p.act(strings.Fields(in.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	return in.Err()
})

type actor struct {
	ln   *net.UnixListener
	conn *net.UnixConn
}

func (p *actor) act(words []string) (answer string, err error) {
	numbers := make([]int, len(words))
	for i, w := range words {
		numbers[i], _ = strconv.Atoi(w)
	}
	switch words[0] {
	case "self":
		return credentials.Self().String(), nil
	case "inherit":
		p.conn, err = socketpair.Inherit(3)
	case "dial": // network, path
		p.conn, err = net.DialUnix(words[1], nil, &net.UnixAddr{Net: words[1], Name: words[2]})
	case "listen": // network, path
		if p.ln, err = net.ListenUnix(words[1], &net.UnixAddr{Net: words[1], Name: words[2]}); err == nil {
			err = os.Chmod(words[2], 0o777)
		}
	case "accept":
		p.conn, err = p.ln.AcceptUnix()
	case "peer":
		var cred credentials.Cred
		cred, err = credentials.Peer(p.conn)
		answer = cred.String()
	case "exchange":
		var s credentials.Sender
		s, err = credentials.Exchange(context.Background(), p.conn)
		answer = s.String()
		_ = s.Close()
	case "samepeer":
		err = credentials.SameUser().Check(p.conn)
	case "peergroup": // gid
		err = credentials.GID(uint32(numbers[1])).Check(p.conn)
	case "write":
		_, err = p.conn.Write([]byte(words[1]))
	case "read":
		buf := make([]byte, 64)
		n, rerr := p.conn.Read(buf)
		answer, err = string(buf[:n]), rerr
	case "send": // text, pid, uid, gid: with credentials, also false ones
		err = sendAs(p.conn, strings.ReplaceAll(words[1], "_", " "), numbers[2], numbers[3], numbers[4])
	case "ids": // real, effective and saved uid; the gids are 3 more
		for i := range numbers {
			numbers[i] += 3
		}
		if err = syscall.Setresgid(numbers[1], numbers[2], numbers[3]); err == nil {
			err = syscall.Setresuid(numbers[1]-3, numbers[2]-3, numbers[3]-3)
		}
	case "signal": // pid
		var other *credentials.Process
		if other, err = credentials.OpenProcess(numbers[1]); err == nil {
			err = other.Signal(0)
			_ = other.Close()
		}
	case "exec": // program, environment; the connection stays open
		err = sysfd.Control(p.conn, func(fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 100)
			return err
		})
		if err == nil {
			err = syscall.Exec(words[1], words[1:2], words[2:])
		}
	case "exit": // status
		os.Exit(numbers[1])
	default:
		err = fmt.Errorf("peer does not know %q", words[0])
	}
	return answer, err
}

// process is a peer that was started.
type process struct {
	*exec.Cmd
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts a command that is a peer, and ends it with the test.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		_ = in.Close()
		_ = out.Close()
		t.Fatal(err)
	}
	p := &process{cmd, t, in, bufio.NewScanner(out)}
	t.Cleanup(func() { _ = p.end() })
	return p
}

// startWith starts a peer that inherits a pair's end, and gives the other one to the test.
func startWith(t testing.TB, cmd *exec.Cmd, style socketpair.Style) (*process, *net.UnixConn) {
	t.Helper()
	conn, child, err := socketpair.ForChild(style)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	t.Cleanup(func() { conn.Close() })
	cmd.ExtraFiles = []*os.File{child}
	p := start(t, cmd)
	p.do("inherit")
	return p, conn
}

func (p *process) tell(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("tell the other process %q: %v", format, err)
	}
}

func (p *process) answer() string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatal("the other process has ended without an answer")
	}
	return p.out.Text()
}

// ask tells and waits for the answer.
func (p *process) ask(format string, args ...any) string {
	p.t.Helper()
	p.tell(format, args...)
	return p.answer()
}

// do is ask for what must succeed.
func (p *process) do(format string, args ...any) string {
	p.t.Helper()
	answer := p.ask(format, args...)
	if strings.HasPrefix(answer, "error: ") {
		p.t.Fatalf("the other process: "+format+": "+answer, args...)
	}
	return answer
}

// refuses is ask for what must fail with the text of want.
func (p *process) refuses(want error, format string, args ...any) {
	p.t.Helper()
	if answer := p.ask(format, args...); !strings.HasPrefix(answer, "error: ") || !strings.Contains(answer, want.Error()) {
		p.t.Errorf("the other process: %s: %q, want %q", fmt.Sprintf(format, args...), answer, want)
	}
}

// end ends the process, if it did not by itself, and reaps it.
func (p *process) end() error {
	if p.ProcessState != nil {
		return nil
	}
	_ = p.in.Close()
	return p.Wait()
}

func (p *process) pid() int { return p.Process.Pid }

// as is a command for a peer that is another user: uid 4200, gid 4201, or an ordinary user himself.
func as(t testing.TB, other bool) (cmd *exec.Cmd, cred credentials.Cred) {
	t.Helper()
	if other {
		return peer.CommandAs(t, 4200, 4201, nil), credentials.Cred{UID: 4200, GID: 4201}
	}
	self := credentials.Self()
	return peer.Command(t), credentials.Cred{UID: self.UID, GID: self.GID}
}

// isolate puts a command into new namespaces, for whoever may not do that in a user namespace as well, in
// which he is root.
func isolate(cmd *exec.Cmd, flags uintptr) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 || flags != unix.CLONE_NEWUSER && !isSysAdmin() {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
	}
	return cmd
}

// isSysAdmin reports whether this process has CAP_SYS_ADMIN. Root of a container may not.
func isSysAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// namespaces is whether this machine lets us make them; a container may not.
var namespaces = sync.OnceValue(func() error {
	cmd := isolate(exec.Command("true"), unix.CLONE_NEWPID)
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	return cmd.Run()
})

// needNamespaces skips the test where there are none. Call it before NoLeaks: package syscall leaks a
// pipe when clone(2) refuses a user namespace.
func needNamespaces(t testing.TB) {
	t.Helper()
	if err := namespaces(); err != nil {
		t.Skipf("this machine has no namespaces for us: %v", err)
	}
}

// folder is one that every user can reach, for sockets.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fdkit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func listen(t testing.TB, network string) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(folder(t), "socket")
	ln, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	return ln, path
}

// dialled starts a peer that connects to a path here, and returns the accepted connection.
func dialled(t testing.TB, cmd *exec.Cmd, network string) (*process, *net.UnixConn) {
	t.Helper()
	ln, path := listen(t, network)
	p := start(t, cmd)
	p.do("dial %s %s", network, path)
	return p, accept(t, ln)
}

func accept(t testing.TB, ln *net.UnixListener) *net.UnixConn {
	t.Helper()
	conn, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func pair(t testing.TB, style socketpair.Style) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := socketpair.New(style)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// send sends p with control messages, past package net.
func send(t testing.TB, c syscall.Conn, p, control []byte) {
	t.Helper()
	if err := sendRaw(c, p, control); err != nil {
		t.Fatal(err)
	}
}

func sendRaw(c syscall.Conn, p, control []byte) error {
	return sysfd.Control(c, func(fd int) error {
		return os.NewSyscallError("sendmsg", unix.Sendmsg(fd, p, control, nil, unix.MSG_DONTWAIT))
	})
}

func sendAs(c syscall.Conn, text string, pid, uid, gid int) error {
	stamp := cmsg.AppendCredentials(nil, cmsg.Credentials{PID: pid, UID: uint32(uid), GID: uint32(gid)})
	return sendRaw(c, []byte(text), stamp)
}

// stamp is a control message with the truth.
func stamp() []byte {
	return cmsg.AppendCredentials(nil, cmsg.Credentials{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
}

func option(t testing.TB, c syscall.Conn, option int) int {
	t.Helper()
	v, err := sysfd.Ask(c, func(fd int) (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, option) })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func setOption(t testing.TB, c syscall.Conn, option, v int) {
	t.Helper()
	err := sysfd.Control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, v) })
	if err != nil {
		t.Fatal(err)
	}
}

// sent waits until something that c sent lies unread at its other end.
func sent(t testing.TB, c syscall.Conn) {
	t.Helper()
	testutil.Eventually(t, "a message is sent", func() bool { return unread(t, c) })
}

func unread(t testing.TB, c syscall.Conn) bool {
	t.Helper()
	n, err := sysfd.Ask(c, func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCOUTQ) })
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// arrived waits until c has something to read.
func arrived(t testing.TB, c syscall.Conn) {
	t.Helper()
	testutil.Eventually(t, "a message is there", func() bool {
		n, err := sysfd.Ask(c, func(fd int) (int, error) {
			return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		})
		return err == nil && n > 0
	})
}

// open pins a process until the end of the test.
func open(t testing.TB, pid int) *credentials.Process {
	t.Helper()
	p, err := credentials.OpenProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// matches reports a wrong error.
func matches(t testing.TB, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("got the error %v, want %v", err, w)
		}
	}
}
