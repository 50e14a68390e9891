//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// Connect passes one byte and one socket, in the mode that is asked for, and nothing else.
func TestConnect(t *testing.T) {
	binary(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	path := filepath.Join(testutil.ShortDir(t), "x.sock")
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for _, c := range []struct {
		ln   net.Listener
		args []string
		mode bool
	}{
		{tcp, []string{"127.0.0.1", port}, false},
		{tcp, []string{"--nonblock", "--timeout", "2m", "localhost", port}, true},
		{local, []string{"unix:" + path}, false},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			testutil.NoLeaks(t)
			conn, child := pairFor(t, socketpair.Stream)
			s := newSession(t, nil, append([]string{"connect"}, c.args...)...)
			s.Stdin, s.Stdout = child, child
			s.start(t)
			child.Close()
			s.ends(t, 0)
			m, err := conn.Receive(make([]byte, 10), 2)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if !bytes.Equal(m.Data, []byte{0}) || m.Files.Len() != 1 {
				t.Fatalf("%q and %d descriptors", m.Data, m.Files.Len())
			}
			if more, err := conn.Receive(make([]byte, 10), 2); err != io.EOF {
				t.Errorf("and %q, %v", more.Data, err)
			}
			if mode := nonblocking(t, m.Files.Lend(0)); mode != c.mode {
				t.Errorf("nonblocking: %v, want %v", mode, c.mode)
			}
			if c.ln == tcp {
				for _, option := range [][2]int{{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE}} {
					if on, err := unix.GetsockoptInt(lent(t, m.Files.Lend(0)), option[0], option[1]); err != nil || on != 0 {
						t.Errorf("option %v is %d, %v", option, on, err)
					}
				}
			}
			speak(t, c.ln, &m)
		})
	}
}

// speak accepts the connection and says something into the descriptor at its other end.
func speak(t testing.TB, ln net.Listener, m *scm.Message) {
	t.Helper()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := m.Files.TakeConn(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if said, err := io.ReadAll(server); err != nil || string(said) != "hello" {
		t.Errorf("%q, %v", said, err)
	}
}

func TestConnectFails(t *testing.T) {
	testutil.NoLeaks(t)
	addr := testutil.FreeAddress(t)
	host, port, _ := net.SplitHostPort(addr)
	conn, child := pairFor(t, socketpair.Stream)
	s := newSession(t, nil, "connect", host, port)
	s.Stdout = child
	s.start(t)
	child.Close()
	s.ends(t, 1)
	if want := fmt.Sprintf("fdpass: connect: dial tcp %s: connect: connection refused\n", addr); s.stderr.String() != want {
		t.Errorf("%q, want %q", s.stderr.String(), want)
	}
	if m, err := conn.Receive(make([]byte, 10), 1); err != io.EOF {
		t.Errorf("it has sent %q, %v", m.Data, err)
	}

	// A terminal, and the one who connects is a person.
	controller, terminal := openTerminal(t)
	defer controller.Close()
	defer terminal.Close()
	s = newSession(t, nil, "connect", "127.0.0.1", port)
	s.Stdout = terminal
	s.run(t, 2)
	if want := "fdpass: standard output is a terminal, which takes no socket: start connect from a program that waits for a socket there, such as ssh with ProxyUseFdpass=yes\n"; s.stderr.String() != want {
		t.Errorf("%q, want %q", s.stderr.String(), want)
	}

	// A socket that carries no descriptors: they would be lost without a word.
	a, b, err := tcpPair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	out := duplicate(t, a)
	defer out.Close()
	s = newSession(t, nil, "connect", "127.0.0.1", port)
	s.Stdout = out
	s.run(t, 2)
	if want := "only those carry descriptors"; !strings.Contains(s.stderr.String(), want) {
		t.Errorf("%q, want %q", s.stderr.String(), want)
	}
}

func openTerminal(t testing.TB) (controller, terminal *os.File) {
	t.Helper()
	controller, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := lent(t, controller)
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return controller, terminal
}

func tcpPair() (*net.TCPConn, net.Conn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := ln.Accept()
	return a.(*net.TCPConn), b, err
}

// A real ssh reaches a real sshd over the socket that fdpass passes, and fdpass has ended by then.
func TestOpenSSH(t *testing.T) {
	testutil.NoLeaks(t)
	ssh := testutil.NeedProgram(t, "ssh")
	sshd := sshdProgram(t)
	if _, err := user.LookupId(strconv.Itoa(os.Geteuid())); err != nil {
		t.Skip("ssh and sshd refuse to run as a user who has no name: ", err)
	}
	dir := t.TempDir()
	configure(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	var log bytes.Buffer
	go func() { served <- serveSSH(ln, sshd, dir, &log) }()

	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, ssh, "-F", "none", "-p", port, "-i", filepath.Join(dir, "user"),
		"-o", "ProxyCommand="+binary(t)+" connect %h %p", "-o", "ProxyUseFdpass=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+filepath.Join(dir, "known"), "-o", "GlobalKnownHostsFile=none",
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "127.0.0.1", "cat")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	var got, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &watched{t: t, data: sent, program: binary(t)}, &got, &stderr
	if err := cmd.Run(); err != nil {
		ln.Close()
		<-served
		t.Fatalf("%v\n%s\nsshd: %s", err, stderr.String(), log.String())
	}
	var exit *exec.ExitError // 255: the client has hung up
	if err := <-served; err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d bytes came back, of %d", got.Len(), len(sent))
	}
}

// watched is data for the remote cat. When the last of it is asked for, most went through already, and no fdpass
// may be left.
type watched struct {
	t       *testing.T
	data    []byte
	program string
}

func (w *watched) Read(p []byte) (int, error) {
	if len(w.data) == 0 {
		return 0, io.EOF
	}
	if len(w.data) <= len(p) {
		executables, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range executables {
			if exe, err := os.Readlink(link); err == nil && exe == w.program {
				w.t.Errorf("fdpass still runs: %s", link)
			}
		}
	}
	n := copy(p, w.data)
	w.data = w.data[n:]
	return n, nil
}

// sshdProgram returns the path of sshd, which wants to be called by it.
func sshdProgram(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if _, err := os.Stat(path); err == nil {
			if os.Geteuid() == 0 { // where it confines itself
				if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
					t.Fatal(err)
				}
			}
			return path
		}
	}
	return testutil.NeedProgram(t, "sshd")
}

// configure writes keys and configuration into dir.
func configure(t *testing.T, dir string) {
	t.Helper()
	keygen := testutil.NeedProgram(t, "ssh-keygen")
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	config := fmt.Sprintf(`HostKey %[1]s/host
AuthorizedKeysFile %[1]s/user.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin prohibit-password
LogLevel ERROR
`, dir)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveSSH accepts one connection and runs sshd on it, as inetd does.
func serveSSH(ln net.Listener, sshd, dir string, log io.Writer) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, sshd, "-i", "-e", "-f", filepath.Join(dir, "sshd_config"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, log
	return cmd.Run()
}
