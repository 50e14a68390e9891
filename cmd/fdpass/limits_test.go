//go:build linux

package main

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// stuck is a program whose timeout is over and that still does not end.
var stuck = testutil.NewHelper("stuck", func([]string) error {
	ctx, stop := untilDone(context.Background(), "stuck", 10*time.Millisecond)
	defer stop()
	<-ctx.Done()
	select {}
})

func TestTimeoutHolds(t *testing.T) {
	testutil.NoLeaks(t)
	cmd := stuck.Command(t)
	cmd.Stderr = nil
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != exitTimeout || len(out) > 0 {
		t.Errorf("%v, %q", err, out)
	}
}

// A signal that was ignored, as nohup(1) has it, stays ignored.
func TestIgnoredSignal(t *testing.T) {
	testutil.NoLeaks(t)
	conn, child := pairFor(t, socketpair.Stream)
	s := newSession(t, []*os.File{child}, "-c", "trap '' HUP; exec \"$0\" recv --fd 3 --timeout 2m --count 1", binary(t))
	s.Path = testutil.NeedProgram(t, "sh")
	s.start(t)
	waits(t, s.Process)
	if err := s.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := conn.Send([]byte("still there")); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 0)
}

// A sender can make close(2) wait for as long as it likes. Recv does not.
func TestRecvLingeringSocket(t *testing.T) {
	testutil.NoLeaks(t)
	a, b, err := tcpPair()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := a.SetLinger(3600); err != nil {
		t.Fatal(err)
	}
	fillTCP(t, a)
	conn, child := pairFor(t, socketpair.SeqPacket)
	if err := conn.Send([]byte("x"), a); err != nil {
		t.Fatal(err)
	}
	if err := conn.NetConn().CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// While it is in flight this is not the last copy, and closing it waits for nothing.
	a.Close()
	s := newSession(t, []*os.File{child}, "recv", "--fd", "3", "--timeout", "2m") // which is killed if it waits for it
	s.run(t, 0)
}

// fillTCP writes until nothing more goes in: the other end does not read.
func fillTCP(t testing.TB, c *net.TCPConn) {
	t.Helper()
	p := make([]byte, 1<<16)
	for {
		if err := c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(p); err != nil {
			return
		}
	}
}
