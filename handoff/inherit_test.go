//go:build linux

package handoff

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/systemd"
)

// The sockets of the manager, by name and by address, through three generations. They stay the manager's: the path,
// who its clients see, and what waits in its queue.
func TestServiceInherits(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(testutil.ShortDir(t), "web.sock")
	tcp, local, spare := must(net.Listen("tcp", "127.0.0.1:0")), must(net.Listen("unix", path)), must(net.Listen("tcp", "127.0.0.1:0"))
	dns := must(net.ListenPacket("udp", "127.0.0.1:0"))
	defer dns.Close()
	for _, ln := range []net.Listener{tcp, local, spare} {
		defer ln.Close()
	}
	local.(*net.UnixListener).SetUnlinkOnClose(false)
	addr := tcp.Addr().String()

	cmd := aUnit.Command(t)
	c := unitConfig{Listen: [][2]string{{"systemd", "web"}, {"unix", path}, {"systemd", "dns"}}, Deadlines: Deadlines{Probation: 50 * time.Millisecond, MaxPause: patient}}
	cmd.Env = append(cmd.Env, c.environ(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var given []systemd.Named
	for name, s := range map[string]syscall.Conn{
		"web": tcp.(syscall.Conn), "local": local.(syscall.Conn), "spare": spare.(syscall.Conn), "dns": dns.(syscall.Conn),
	} {
		given = append(given, systemd.Named{Name: name, Conn: s})
	}
	first := launchBy(t, cmd, func() error { return systemd.Start(cmd, given...) })
	defer syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if l := first.await(string(EventUnclaimed)); l.State != "systemd://spare" {
		t.Errorf("%q is unclaimed", l.State)
	}
	pid := 0
	for range 3 {
		ready := first.await("ready")
		if ready.PID == pid || ready.State != "" {
			t.Errorf("after %d: %+v", pid, ready)
		}
		pid = ready.PID
		for network, address := range map[string]string{"tcp": addr, "unix": path} {
			if got := who(t, network, address); got != fmt.Sprint(pid) {
				t.Errorf("%s: %s answers, not %d", network, got, pid)
			}
		}
		if got := askUDP(t, dns.LocalAddr().String()); got != fmt.Sprintf("%d hello", pid) {
			t.Errorf("udp: %q, not of %d", got, pid)
		}
		client := must(net.Dial("unix", path))
		if cred, err := credentials.Peer(client.(syscall.Conn)); err != nil || cred.PID != os.Getpid() {
			t.Errorf("its clients see %+v, %v", cred, err)
		}
		client.Close()
		_ = syscall.Kill(pid, syscall.SIGHUP)
	}
	last := first.await("ready")
	_ = syscall.Kill(last.PID, syscall.SIGTERM)
	for first.await("end").PID != last.PID {
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the manager's path: %v", err)
	}
	for network, address := range map[string]string{"tcp": addr, "unix": path} { // they wait for the next process
		client, err := net.Dial(network, address)
		if err != nil {
			t.Error(err)
			continue
		}
		client.Close()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func askUDP(t *testing.T, addr string) string {
	t.Helper()
	c := must(net.Dial("udp", addr))
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	_, err := c.Write([]byte("hello"))
	n, rerr := c.Read(b)
	if err := errors.Join(err, rerr); err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestGivenNames(t *testing.T) {
	s := new(Service)
	if f, err := s.given("tcp", ":8080", listens); f != nil || err != nil {
		t.Errorf("%v, %v", f, err)
	}
	_, err := s.given("systemd", "web", listens)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), `"web"`) {
		t.Error(err)
	}
}

// What is at an address is what package net would make there.
func TestIsAt(t *testing.T) {
	testutil.NoLeaks(t)
	dir := testutil.ShortDir(t)
	t.Chdir(dir)
	listenAt := func(network, address string) *scm.SocketInfo {
		var c interface {
			syscall.Conn
			Close() error
		}
		if strings.HasPrefix(network, "udp") || network == "unixgram" {
			c = must(net.ListenPacket(network, address)).(interface {
				syscall.Conn
				Close() error
			})
		} else {
			c = must(net.Listen(network, address)).(interface {
				syscall.Conn
				Close() error
			})
		}
		defer c.Close()
		return must(scm.Inspect(c)).Socket
	}
	// A machine without IPv6 has no such sockets, but one can tell what they would be.
	listenAt6 := func(address string, ip net.IP) *scm.SocketInfo {
		if probe, err := net.Listen("tcp6", "[::1]:0"); err == nil {
			probe.Close()
			return listenAt("tcp", address)
		}
		k := *listenAt("tcp4", "127.0.0.1:0")
		k.Local = &net.TCPAddr{IP: ip, Port: k.Local.(*net.TCPAddr).Port}
		return &k
	}
	port := func(k *scm.SocketInfo) string {
		_, p, err := net.SplitHostPort(k.Local.String())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	any6, lo6 := listenAt6(":0", net.IPv6unspecified), listenAt6("[::1]:0", net.IPv6loopback)
	any4, lo4 := listenAt("tcp4", ":0"), listenAt("tcp", "127.0.0.1:0")
	udp := listenAt("udp", "127.0.0.1:0")
	path, abstract, packets, datagrams := listenAt("unix", dir+"/a"), listenAt("unix", "@"+dir), listenAt("unixpacket", dir+"/b"), listenAt("unixgram", dir+"/c")
	for _, c := range []struct {
		k                *scm.SocketInfo
		network, address string
		want             bool
	}{
		{any6, "tcp", ":" + port(any6), true},
		{any6, "tcp", "[::]:" + port(any6), true},
		{any6, "tcp6", ":" + port(any6), true},
		{any6, "tcp4", ":" + port(any6), false},
		{any6, "tcp", "127.0.0.1:" + port(any6), false},
		{any6, "udp", ":" + port(any6), false},
		{any6, "tcp", ":0", false},
		{any4, "tcp", ":" + port(any4), true},
		{any4, "tcp4", "0.0.0.0:" + port(any4), true},
		{any4, "tcp6", ":" + port(any4), false},
		{lo4, "tcp", "127.0.0.1:" + port(lo4), true},
		{lo4, "tcp", ":" + port(lo4), false},
		{lo4, "tcp", "127.0.0.2:" + port(lo4), false},
		{lo4, "tcp", "127.0.0.1:1", false},
		{lo4, "tcp", "nonsense", false},
		{lo6, "tcp", "[::1]:" + port(lo6), true},
		{lo6, "tcp", "127.0.0.1:" + port(lo6), false},
		{udp, "udp", "127.0.0.1:" + port(udp), true},
		{udp, "tcp", "127.0.0.1:" + port(udp), false},
		{path, "unix", dir + "/a", true},
		{path, "unix", "a", true},
		{path, "unix", dir + "/b", false},
		{path, "unix", "", false},
		{path, "unixpacket", dir + "/a", false},
		{path, "tcp", dir + "/a", false},
		{abstract, "unix", "@" + dir, true},
		{packets, "unixpacket", dir + "/b", true},
		{packets, "unix", dir + "/b", false},
		{datagrams, "unixgram", dir + "/c", true},
		{datagrams, "unix", dir + "/c", false},
	} {
		if have := isAt(c.k, c.network, c.address); have != c.want {
			t.Errorf("%v at %s %q: %v", c.k.Local, c.network, c.address, have)
		}
	}
}
