//go:build linux

package handoff

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// The other side in Python, which knows nothing but docs/protocol.md.

// foreign is a running testdata/peer.py.
type foreign struct {
	cmd   *exec.Cmd
	steps *bufio.Reader
}

// startForeign starts peer.py and returns our end of the pair.
func startForeign(t *testing.T, style socketpair.Style, args ...string) (*scm.Conn, *foreign) {
	t.Helper()
	conn, end, err := socketpair.ForChild(style)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	c, err := scm.NewConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, testutil.NeedProgram(t, "python3"), append([]string{"testdata/peer.py"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{end}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return c, &foreign{cmd, bufio.NewReader(out)}
}

// next returns what it prints next.
func (f *foreign) next(t *testing.T) string {
	t.Helper()
	line, err := f.steps.ReadString('\n')
	if err != nil {
		t.Fatalf("peer.py: %q, %v", line, err)
	}
	return strings.TrimSpace(line)
}

// expect waits for these steps.
func (f *foreign) expect(t *testing.T, steps ...string) {
	t.Helper()
	for _, want := range steps {
		if got := f.next(t); got != want {
			t.Fatalf("peer.py is at %q, want %q", got, want)
		}
	}
}

// succeeds waits for its end.
func (f *foreign) succeeds(t *testing.T) {
	t.Helper()
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("peer.py: %v", err)
	}
}

func (f *foreign) kill(t *testing.T) {
	t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestTakeFromPython(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		c, python := startForeign(t, style, "predecessor")
		to, err := Take(t.Context(), c, Wish{Name: "web", Deadlines: Deadlines{Hello: patient}})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		port := python.next(t)
		if len(to.Items) != 1 || to.Items[0].Name != "http" || string(to.Items[0].Meta) != "py" || to.Generation != 7 {
			t.Fatalf("%+v", to)
		}
		ln, err := to.Items[0].TakeListener()
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if ln.Addr().String() != "127.0.0.1:"+port {
			t.Errorf("%v, python listened on port %s", ln.Addr(), port)
		}
		if err := to.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		if final, err := to.Final(); err != nil || string(final.State) != "python's state" {
			t.Errorf("%v, %q", err, final.State)
		}
		to.Serving()
		if err := to.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		python.expect(t, "adopted", "ready", "serving", "done")
		python.succeeds(t)
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server.Close()
	})
}

// What the predecessor had not sent is lost with it; what it had handed over is not.
func TestPythonPredecessorDies(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		c, python := startForeign(t, style, "predecessor", "hold=adopted")
		to, err := Take(t.Context(), c, Wish{Name: "web", Deadlines: Deadlines{Hello: patient}})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		python.next(t) // its port
		python.expect(t, "adopted")
		python.kill(t)
		if err := to.Ready(t.Context()); err != nil {
			t.Errorf("ready: %v", err)
		}
		if final, err := to.Final(); !errors.Is(err, ErrStateLost) || final.State != nil {
			t.Errorf("final: %q, %v", final.State, err)
		}
		if err := to.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		ln, err := to.Items[0].TakeListener()
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	})
}

// offerPython offers a listener and a state, and reports how often it was resumed.
func offerPython(t *testing.T, c *scm.Conn) (ln *net.TCPListener, ended <-chan error, resumed *int) {
	ln, resumed = tcp(t), new(int)
	done := make(chan error, 1)
	go func() {
		done <- Offer(context.Background(), c, Offering{
			Name: "web", Generation: 1,
			Items:     []Item{{Name: "http", Kind: Listener, Conn: ln, Backlog: 5, Meta: []byte("?")}},
			Pause:     func(context.Context) (Final, error) { return Final{State: []byte("go's state")}, nil },
			Resume:    func() { *resumed++ },
			Deadlines: Deadlines{Hello: patient, Probation: 10 * time.Millisecond, MaxPause: patient},
		})
	}()
	return ln, done, resumed
}

func TestOfferToPython(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		c, python := startForeign(t, style, "successor")
		ln, done, resumed := offerPython(t, c)
		python.expect(t, "adopted", "commit", "serving")
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if b, err := io.ReadAll(conn); err != nil || string(b) != "python has go's state" {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-done; err != nil || *resumed != 0 {
			t.Errorf("%v, resumed %d times", err, *resumed)
		}
		python.expect(t, "done")
		python.succeeds(t)
	})
}

func TestPythonSuccessorAborts(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		c, python := startForeign(t, style, "successor", "abort=the disk is full")
		_, done, resumed := offerPython(t, c)
		err := <-done
		if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "the disk is full") || *resumed != 0 {
			t.Errorf("%v, resumed %d times", err, *resumed)
		}
		python.expect(t, "adopted", "aborted")
		python.succeeds(t)
	})
}

func TestPythonSuccessorDies(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		c, python := startForeign(t, style, "successor", "hold=commit")
		_, done, resumed := offerPython(t, c)
		python.expect(t, "adopted", "commit")
		select {
		case err := <-done:
			t.Fatalf("over before the death: %v", err)
		default:
		}
		python.kill(t)
		if err := <-done; !errors.Is(err, ErrTookBack) || *resumed != 1 {
			t.Errorf("%v, resumed %d times", err, *resumed)
		}
	})
}

// Nobody serves a version that the other does not speak, and both sides say so.
func TestPythonOfAnotherVersion(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		c, python := startForeign(t, style, "successor", "versions=2-3")
		_, done, resumed := offerPython(t, c)
		if err := <-done; !errors.Is(err, ErrKept) || !errors.Is(err, ErrVersion) || *resumed != 0 {
			t.Errorf("offer: %v, resumed %d times", err, *resumed)
		}
		python.expect(t, "refused")

		c, python = startForeign(t, style, "predecessor", "versions=2-3")
		if _, err := Take(t.Context(), c, Wish{Name: "web", Deadlines: Deadlines{Hello: patient}}); !errors.Is(err, ErrKept) || !errors.Is(err, ErrVersion) {
			t.Errorf("take: %v", err)
		}
		python.next(t)
		python.expect(t, "refused")
		python.succeeds(t)
	})
}
