//go:build linux

package systemd_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
	"github.com/fdkit/fdkit/systemd"
)

// showInherited prints what it was given, a line for each.
var showInherited = testutil.NewHelper("show-inherited", func([]string) error {
	// The runtime may have something open, the limits of its control group say, or nothing: this is behind what we inherit.
	own, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer own.Close()
	files, err := systemd.Inherited()
	if err != nil {
		fmt.Println("error:", err)
	}
	for _, f := range files {
		fmt.Println(describe(f))
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "LISTEN_") {
			fmt.Println("still there:", v)
		}
	}
	again, err2 := systemd.Inherited()
	if fmt.Sprint(err2) != fmt.Sprint(err) || len(again) != len(files) {
		return fmt.Errorf("the second call: %v, %v", again, err2)
	}
	for i := range again {
		if again[i] != files[i] {
			return errors.New("the second call gives other files")
		}
	}
	return nil
})

func describe(f *systemd.File) string {
	info, err := scm.Inspect(f)
	if err != nil {
		return fmt.Sprintf("%s: %v", f.Name, err)
	}
	s := fmt.Sprintf("%s: %s", f.Name, info.Kind)
	if k := info.Socket; k != nil {
		s += fmt.Sprintf(" %s listening %v %v", k.Style, k.Listening, k.Local)
	}
	raw, _ := f.SyscallConn()
	raw.Control(func(fd uintptr) {
		s += ", " + is(closeOnExec(int(fd)), "close-on-exec")
	})
	return s
}

// takeInherited takes each of its descriptors as what the arguments say, in their order.
var takeInherited = testutil.NewHelper("take-inherited", func(as []string) error {
	files, err := systemd.Inherited()
	if err != nil || len(files) != len(as) {
		return fmt.Errorf("%d files, %w", len(files), err)
	}
	for i, f := range files {
		c, err := takeAs(f, as[i])
		if err != nil {
			fmt.Println(err)
			if _, err := scm.Inspect(f); err != nil {
				return fmt.Errorf("after the error: %w", err) // it must still be there
			}
			continue
		}
		fmt.Printf("%T\n", c)
		if _, err := takeAs(f, as[i]); !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("taken twice: %w", err)
		}
		defer c.Close()
	}
	left := 0
	for fd := 3; fd < 3+len(files); fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			left++
		}
	}
	fmt.Println("still at its number:", left)
	return files.Close()
})

func takeAs(f *systemd.File, as string) (io.Closer, error) {
	switch as {
	case "listener":
		return f.TakeListener()
	case "conn":
		return f.TakeConn()
	case "packet":
		return f.TakePacketConn()
	}
	return f.TakeFile()
}

func listen(t *testing.T, network string) (net.Listener, *os.File) {
	t.Helper()
	address := "127.0.0.1:0"
	if strings.HasPrefix(network, "unix") {
		address = filepath.Join(testutil.ShortDir(t), "socket")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return ln, f
}

// mixed are five descriptors of five kinds.
func mixed(t *testing.T) (files []*os.File, where []string) {
	t.Helper()
	tcp, f1 := listen(t, "tcp")
	packet, f2 := listen(t, "unixpacket")
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	f3, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	a, f4, err := socketpair.ForChild(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	f5, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{f3, f4, f5} {
		t.Cleanup(func() { f.Close() })
	}
	return []*os.File{f1, f2, f3, f4, f5}, []string{tcp.Addr().String(), packet.Addr().String(), udp.LocalAddr().String()}
}

func TestInherited(t *testing.T) {
	testutil.NoLeaks(t)
	cmd := given(t, showInherited.Command(t), 5, "LISTEN_FDNAMES=web:packets:web:peer:")
	var where []string
	cmd.ExtraFiles, where = mixed(t)
	got := output(t, cmd)
	want := "web: socket SOCK_STREAM listening true " + where[0] + ", close-on-exec\n" +
		"packets: socket SOCK_SEQPACKET listening true " + where[1] + ", close-on-exec\n" +
		"web: socket SOCK_DGRAM listening false " + where[2] + ", close-on-exec\n" +
		"peer: socket SOCK_STREAM listening false <nil>, close-on-exec\n" +
		": character device, close-on-exec\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTakeInherited(t *testing.T) {
	testutil.NoLeaks(t)
	for _, c := range []struct {
		as   []string
		want []string
	}{
		{[]string{"listener", "listener", "packet", "conn", "file"},
			[]string{"*net.TCPListener", "*net.UnixListener", "*net.UDPConn", "*net.UnixConn", "*os.File"}},
		{[]string{"conn", "packet", "listener", "listener", "listener"}, []string{
			`systemd: take descriptor 3, "a", as a connection: it listens: invalid argument`,
			`systemd: take descriptor 4, "b", as a packet socket: it listens: invalid argument`,
			`systemd: take descriptor 5, "c", as a listener: it does not listen: invalid argument`,
			`systemd: take descriptor 6, "d", as a listener: it does not listen: invalid argument`,
			`systemd: take descriptor 7, "e", as a listener: getsockopt: socket operation on non-socket`,
			"still at its number: 5"}},
		{[]string{"file", "file", "conn", "packet", "conn"}, []string{
			"*os.File", "*os.File",
			`systemd: take descriptor 5, "c", as a connection: getpeername: transport endpoint is not connected`,
			`systemd: take descriptor 6, "d", as a packet socket: it is not a packet socket: invalid argument`,
			`systemd: take descriptor 7, "e", as a connection: getsockopt: socket operation on non-socket`}},
	} {
		cmd := given(t, takeInherited.Command(t, c.as...), 5, "LISTEN_FDNAMES=a:b:c:d:e")
		cmd.ExtraFiles, _ = mixed(t)
		got := output(t, cmd)
		if !strings.HasPrefix(got, strings.Join(c.want, "\n")+"\n") {
			t.Errorf("as %v:\n%s", c.as, got)
		}
	}
}

// What is not for us, or malformed, changes nothing but the environment.
func TestInheritedNot(t *testing.T) {
	testutil.NoLeaks(t)
	_, f := listen(t, "tcp")
	for _, c := range []struct{ what, set, want string }{
		{"a stale pid", "export LISTEN_PID=1 LISTEN_FDS=1", ""},
		{"no pid", "export LISTEN_FDS=1 LISTEN_FDNAMES=a", ""},
		{"the pid was used again", "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_PIDFDID=1", ""},
		{"garbage", "export LISTEN_PID=$$ LISTEN_FDS=many", `error: LISTEN_FDS="many" is not a number of descriptors: systemd: malformed environment` + "\n"},
		{"names", "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b", "error: LISTEN_FDNAMES has 2 names for 1 descriptors: systemd: malformed environment\n"},
		{"too many", "export LISTEN_PID=$$ LISTEN_FDS=2000000000", "error: systemd: descriptor 4 of LISTEN_FDS=2000000000: " +
			"it is close-on-exec, so it was opened here, or somebody has taken it: bad file descriptor\n"},
		{"not open", "exec 3>&-; export LISTEN_PID=$$ LISTEN_FDS=1", "error: systemd: descriptor 3 of LISTEN_FDS=1: "},
	} {
		cmd := behind(t, showInherited.Command(t), "sh", "-c", c.set+`; exec "$0" "$@"`)
		cmd.ExtraFiles = []*os.File{f}
		if got := output(t, cmd); got != c.want && (!strings.HasSuffix(c.want, ": ") || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// claimInherited takes a number that the other packages of fdkit gave out already.
var claimInherited = testutil.NewHelper("claim-inherited", func([]string) error {
	c, err := socketpair.Inherit(3)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := systemd.Inherited(); !errors.Is(err, socketpair.ErrClaimed) {
		return fmt.Errorf("claimed twice: %w", err)
	}
	if _, err := c.Write([]byte("mine")); err != nil {
		return err
	}
	_, err = socketpair.Inherit(4) // not claimed by what failed
	if !errors.Is(err, syscall.ENOTSOCK) {
		return fmt.Errorf("the other number: %w", err)
	}
	return nil
})

func TestInheritedClaimed(t *testing.T) {
	testutil.NoLeaks(t)
	a, child, err := socketpair.ForChild(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer child.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := given(t, claimInherited.Command(t), 2, "")
	cmd.ExtraFiles = []*os.File{child, null}
	output(t, cmd)
	b := make([]byte, 10)
	if n, err := a.Read(b); string(b[:n]) != "mine" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// serveInherited answers one client on each listener and says so to what sends it a datagram.
var serveInherited = testutil.NewHelper("serve-inherited", func([]string) error {
	files, err := systemd.Inherited()
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%d files, %w", len(files), err)
	}
	for _, f := range files {
		if err := serveOne(f); err != nil {
			return fmt.Errorf("%s: %w", describe(f), err)
		}
	}
	return nil
})

func serveOne(f *systemd.File) error {
	name := f.Name
	if ln, err := f.TakeListener(); err == nil {
		defer ln.Close()
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("hello from " + name))
		return err
	}
	if c, err := f.TakeConn(); err == nil {
		defer c.Close()
		_, err = c.Write([]byte("hello from " + name))
		return err
	}
	c, err := f.TakePacketConn()
	if err != nil {
		return err
	}
	defer c.Close()
	_, from, err := c.ReadFrom(make([]byte, 100))
	if err != nil {
		return err
	}
	_, err = c.WriteTo([]byte("hello from "+name), from)
	return err
}

// The real thing: systemd-socket-activate listens, waits for the first client, and executes us.
func TestSocketActivate(t *testing.T) {
	testutil.NoLeaks(t)
	for _, c := range []struct {
		name, network string
		options       []string
		want          []string // of each of the sockets
	}{
		{"stream", "unix", nil, []string{"unknown", "unknown"}},
		{"named", "unix", []string{"--fdname=one:two"}, []string{"one", "two"}},
		{"seqpacket", "unixpacket", []string{"--seqpacket", "--fdname=one:one"}, []string{"one", "one"}},
		{"datagram", "unixgram", []string{"--datagram"}, []string{"unknown", "unknown"}},
		{"accept", "unix", []string{"--accept", "--fdname=connection"}, []string{"connection"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := testutil.ShortDir(t)
			args := append([]string{"-E", "FDKIT_TEST_HELPER", "-E", "GORACE"}, c.options...)
			for i := range c.want {
				args = append(args, "-l", filepath.Join(dir, fmt.Sprint(i)))
			}
			cmd := behind(t, serveInherited.Command(t), "systemd-socket-activate", args...)
			cmd.Stderr = nil // it tells what it does
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for i, name := range c.want {
				if got := ask(t, c.network, filepath.Join(dir, fmt.Sprint(i))); got != "hello from "+name {
					t.Errorf("socket %d: %q, want %s", i, got, name)
				}
			}
			if c.name == "accept" {
				cmd.Process.Signal(syscall.SIGTERM) // it goes on accepting
				cmd.Wait()
			} else if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// ask connects as soon as there is somebody, and returns the answer.
func ask(t *testing.T, network, path string) string {
	t.Helper()
	var c *net.UnixConn
	testutil.Eventually(t, "connect to "+path, func() bool {
		var local *net.UnixAddr
		if network == "unixgram" {
			local = &net.UnixAddr{Name: path + ".client", Net: network}
			os.Remove(local.Name)
		}
		var err error
		c, err = net.DialUnix(network, local, &net.UnixAddr{Name: path, Net: network})
		return err == nil
	})
	defer c.Close()
	if network == "unixgram" {
		if _, err := c.Write([]byte("who")); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}
