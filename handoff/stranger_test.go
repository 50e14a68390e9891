//go:build linux

package handoff

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
)

// aStranger is a process of another user that tries to take a service over, and says how far it got.
var aStranger = testutil.NewHelper("stranger", func(args []string) error {
	conn, err := net.Dial("unixpacket", args[0])
	if err != nil {
		fmt.Print("no connection: ", err)
		return nil
	}
	c, err := scm.NewConn(conn.(*net.UnixConn))
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := credentials.Exchange(context.Background(), c)
	if err != nil {
		fmt.Print("no identity: ", err)
		return nil
	}
	defer s.Close()
	_ = c.Send(newFrame(frameHello, 0, hello("test", 0)))
	m, err := c.Receive(make([]byte, 1000), 100)
	if err == nil {
		fmt.Printf("received %d bytes and %d descriptors", len(m.Data), m.Files.Len())
		return m.Close()
	}
	if err != io.EOF && !errors.Is(err, scm.ErrPeerGone) {
		return err
	}
	fmt.Print("nothing")
	return nil
})

// silentStranger connects often, and says nothing until it is let go.
var silentStranger = testutil.NewHelper("silent-stranger", func(args []string) error {
	var conns []net.Conn
	for range 20 {
		c, err := net.Dial("unixpacket", args[0])
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	fmt.Print("x")
	_, err := io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns)
	return err
})

// A stranger gets nothing, not even the name of the service: the socket's mode keeps it out, and where
// that was loosened, the policy does. Nor can it hand anything to us.
func TestServiceAndStranger(t *testing.T) {
	testutil.NeedRoot(t)
	c := config(t)
	dir, err := os.MkdirTemp("", "fdkit-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.Socket, c.Unix = filepath.Join(dir, "control"), filepath.Join(dir, "web")
	first := launch(t, c)
	ready := first.await("ready")
	for _, name := range []string{c.Socket, c.Socket + ".lock"} {
		info, err := os.Lstat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	attempt := func() string {
		t.Helper()
		out, err := aStranger.CommandAs(t, 4200, 4200, nil, c.Socket).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := attempt(); !strings.Contains(got, "permission denied") {
		t.Errorf("with the socket's own mode: %s", got)
	}
	if err := os.Chmod(c.Socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := attempt(); got != "nothing" && !strings.HasPrefix(got, "no identity") {
		t.Errorf("with an open socket: %s", got)
	}
	if kept := first.await(string(EventKept)); !strings.Contains(kept.Error, "uid 4200") {
		t.Errorf("the log does not say who it was: %q", kept.Error)
	}
	mustServe(t, c, ready.Addr, ready.PID)
	// Strangers that connect and say nothing do not keep a successor out.
	silent := silentStranger.CommandAs(t, 4200, 4200, nil, c.Socket)
	in, err := silent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := silent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := silent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = silent.Wait()
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	next := launch(t, c).await("ready") // and it goes on
	mustServe(t, c, ready.Addr, next.PID)
	_ = syscall.Kill(next.PID, syscall.SIGTERM)
}

// trespass is a process of another user that tries everything that one can try at a path.
var trespass = testutil.NewHelper("trespass", testutil.Trespass)

// In a folder of the service's own a stranger can do nothing to its paths, and the service goes on, hands over
// and starts again while the stranger has the folder locked.
func TestStrangerAtPaths(t *testing.T) {
	testutil.NeedRoot(t)
	c := config(t)
	dir := testutil.PublicDir(t, 0o755)
	c.Socket, c.Unix = filepath.Join(dir, "control"), filepath.Join(dir, "web")
	first := launch(t, c)
	ready := first.await("ready")
	worked := trespass.TrespassIn(t, dir, "control", "control.lock", "control.new", "web", "web.new")
	if !slices.Equal(worked, []string{"lock the folder"}) {
		t.Errorf("a stranger could %q", worked)
	}
	mustServe(t, c, ready.Addr, ready.PID)
	next := launch(t, c).await("ready")
	mustServe(t, c, ready.Addr, next.PID)
	first.await("end")
	_ = syscall.Kill(next.PID, syscall.SIGKILL)
	testutil.Eventually(t, "the path is nobody's", func() bool {
		c, err := net.Dial("unixpacket", c.Socket)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	again := launch(t, c).await("ready") // it replaces both paths
	mustServe(t, c, again.Addr, again.PID)
	_ = syscall.Kill(again.PID, syscall.SIGTERM)
}

// listensAt listens at a path as a service of an ordinary user does, and says so.
var listensAt = testutil.NewHelper("listens-at", func(args []string) error {
	ln, err := listen("unix", args[0])
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Println("listens")
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.WriteString(c, "served")
	return err
})

// A listening path may lie in /tmp: a stranger cannot take it away, or keep it from being replaced, whatever he
// puts beside it.
func TestStrangerBesideStalePath(t *testing.T) {
	testutil.NeedRoot(t)
	dir := testutil.PublicDir(t, 0o777|os.ModeSticky)
	path := filepath.Join(dir, "web")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	if err := os.Chown(path, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	worked := trespass.TrespassIn(t, dir, "web", "web.new") // he leaves what he could make
	for _, w := range worked {
		if strings.HasSuffix(w, " web") {
			t.Errorf("a stranger could %s", w)
		}
	}
	if !slices.Contains(worked, "open web.new") {
		t.Errorf("he could not even use his folder: %q", worked)
	}
	// A file of his own, whatever he has left there: root must not follow his links.
	beside := filepath.Join(dir, "web.new")
	if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Chown(4200, 4200), f.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := listensAt.CommandAs(t, 4242, 4242, nil, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("it does not listen: %v", cmd.Wait())
	}
	if said != "listens\n" {
		t.Errorf("it says %q", said)
	}
	if worked := trespass.TrespassIn(t, dir, "web"); slices.ContainsFunc(worked, func(w string) bool { return w != "lock the folder" && w != "" }) {
		t.Errorf("a stranger could %q", worked)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); string(b) != "served" {
		t.Errorf("%q, %v", b, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A control socket does not lie where strangers can write.
func TestStartRefusesFolder(t *testing.T) {
	start := func(o Options) error {
		o.StopSignals, o.Name = []os.Signal{}, "web"
		svc, err := Start(t.Context(), o)
		if err != nil {
			return err
		}
		return errors.Join(svc.Stop(t.Context()), svc.Drain(t.Context()))
	}
	for _, mode := range []os.FileMode{0o777, 0o777 | os.ModeSticky, 0o702} {
		t.Run(mode.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			dir := testutil.PublicDir(t, mode)
			if err := start(Options{Socket: filepath.Join(dir, "control")}); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("start: %v", err)
			}
			if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
	t.Run("another user's", func(t *testing.T) {
		testutil.NeedRoot(t)
		testutil.NoLeaks(t)
		dir := testutil.PublicDir(t, 0o755)
		if err := os.Chown(dir, 4200, 4200); err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(dir, "control")
		if err := start(Options{Socket: socket}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("start: %v", err)
		}
		policy := credentials.UID(0, 4200)
		if err := start(Options{Socket: socket, Policy: &policy}); err != nil {
			t.Errorf("with a policy: %v", err)
		}
	})
}
