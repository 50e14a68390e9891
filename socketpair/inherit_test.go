//go:build linux

package socketpair_test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// echo inherits the pair and sends back what it reads, until the end.
var echo = testutil.NewHelper("echo", func([]string) error {
	c, err := socketpair.Inherit(3)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	if _, err := socketpair.Inherit(3); !errors.Is(err, socketpair.ErrClaimed) {
		return errors.Join(errors.New("the second claim"), err)
	}
	p := make([]byte, 100)
	for {
		n, err := c.Read(p)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if string(p[:n]) == "stop" { // a datagram socket has no end
			return nil
		}
		if _, err := c.Write(p[:n]); err != nil {
			return err
		}
	}
})

func TestInherit(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		parent, child, err := socketpair.ForChild(style)
		if err != nil {
			t.Fatal(err)
		}
		defer parent.Close()
		cmd := echo.Command(t)
		cmd.ExtraFiles = []*os.File{child}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		child.Close()
		_ = sysfd.Control(parent, func(fd int) error {
			if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
				t.Error("starting the child made our end blocking")
			}
			return nil
		})
		_ = parent.SetDeadline(time.Now().Add(time.Minute))
		p := make([]byte, 10)
		for range 3 {
			if _, err := parent.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if n, err := parent.Read(p); err != nil || string(p[:n]) != "ping" {
				t.Fatalf("%q, %v", p[:n], err)
			}
		}
		if style == socketpair.Datagram {
			if _, err := parent.Write([]byte("stop")); err != nil {
				t.Fatal(err)
			}
		}
		parent.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// Any program can inherit the child's end: it is in blocking mode.
func TestForChildOfAnotherProgram(t *testing.T) {
	testutil.NoLeaks(t)
	parent, child, err := socketpair.ForChild(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	cmd := exec.Command(testutil.NeedProgram(t, "cat"))
	cmd.Stdin, cmd.Stdout = child, child
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child.Close()
	_ = parent.SetDeadline(time.Now().Add(time.Minute))
	if _, err := parent.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := parent.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(parent); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// The parent sees the end when the child dies, however it dies.
func TestChildDies(t *testing.T) {
	testutil.NoLeaks(t)
	parent, child, err := socketpair.ForChild(socketpair.SeqPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	cmd := echo.Command(t)
	cmd.ExtraFiles = []*os.File{child}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child.Close()
	if _, err := parent.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	_ = parent.SetDeadline(time.Now().Add(time.Minute))
	if _, err := parent.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := parent.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("%v", err)
	}
	_ = cmd.Wait()
}

// What cannot be inherited stays as it is, open and unclaimed.
func TestInheritRefuses(t *testing.T) {
	testutil.NoLeaks(t)
	number := func(c syscall.Conn) (n uintptr) {
		_ = sysfd.Control(c, func(fd int) error { n = uintptr(fd); return nil })
		return n
	}
	ln, err := net.Listen("unix", testutil.ShortDir(t)+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, row := range []struct {
		what string
		fd   uintptr
		want error
	}{
		{"a Unix listener", number(ln.(*net.UnixListener)), socketpair.ErrListening},
		{"a TCP listener", number(tcp.(*net.TCPListener)), socketpair.ErrNotUnix},
		{"a pipe", number(r), unix.ENOTSOCK},
		{"a number that is not open", 1 << 20, unix.EBADF},
	} {
		for range 2 {
			if _, err := socketpair.Inherit(row.fd); !errors.Is(err, row.want) {
				t.Errorf("%s: %v", row.what, err)
			}
		}
	}
	// No number for the duplicate: still unclaimed, and it works afterwards.
	fds, err := sysfd.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	empty := testutil.FillTable(t, 0)
	_, err = socketpair.Inherit(uintptr(fds[0]))
	empty()
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("full table: %v", err)
	}
	c, err := socketpair.Inherit(uintptr(fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer sysfd.Unclaim(fds[0])
	c.Close()
}
