//go:build linux

package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
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
	next := launch(t, c).await("ready") // and it goes on
	mustServe(t, c, ready.Addr, next.PID)
	_ = syscall.Kill(next.PID, syscall.SIGTERM)
}
