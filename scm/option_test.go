//go:build linux

package scm_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestSender(t *testing.T) {
	testutil.Need(t, testutil.PassPIDFD)
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		own, err := credentials.OpenProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		receive := func() *credentials.Sender {
			t.Helper()
			m, err := b.Receive(make([]byte, 10), 1)
			if err != nil || m.Files.Len() != 1 {
				t.Fatalf("%d descriptors, %v", m.Files.Len(), err)
			}
			m.Files.Close()
			t.Cleanup(func() { m.Close() })
			return m.Sender
		}
		send := func() {
			t.Helper()
			if err := a.Send([]byte("x"), files(t, 1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		send()
		if s := receive(); s != nil {
			t.Errorf("nobody asked, and the sender is %v", s)
		}
		// Sent before the option was on: the kernel writes {0, 65534, 65534}, which is nobody.
		send()
		if err := b.SetPassCred(true); err != nil {
			t.Fatal(err)
		}
		if s := receive(); s != nil {
			t.Errorf("not stamped, and the sender is %v", s)
		}
		send()
		want := credentials.Cred{PID: os.Getpid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
		if s := receive(); s == nil || s.Cred != want || s.Process != nil {
			t.Errorf("stamped: %v", s)
		}
		if err := b.SetPassPIDFD(true); err != nil {
			t.Fatal(err)
		}
		send()
		if s := receive(); s == nil || s.Cred != want || s.Process == nil || s.Process.ID() != own.ID() {
			t.Errorf("with a pidfd: %v", s)
		}
		// The raw tier does not report the pidfd and must not leak it.
		send()
		fds := make([]int, 1)
		if _, _, err := b.ReceiveFDs(make([]byte, 10), fds); err != nil {
			t.Fatal(err)
		}
		unix.Close(fds[0])
		// Nor may an error.
		send()
		if _, err := b.Receive(make([]byte, 10), 0); !errors.Is(err, scm.ErrTooManyFiles) {
			t.Error(err)
		}
		// With a full table a pidfd that does not fit is an errno in its place, and no truncation.
		if err := a.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
		empty := testutil.FillTable(t, 0)
		m, err := b.Receive(make([]byte, 10), 0)
		empty()
		if err != nil || m.Sender == nil || m.Sender.Cred != want || m.Sender.Process != nil {
			t.Errorf("full table: %v, %v", m.Sender, err)
		}
		if b.Style() == socketpair.Datagram {
			return
		}
		// At the end of a stream the kernel writes {0, 0, 0}, which is not root.
		a.Close()
		if m, err := b.Receive(make([]byte, 10), 0); err != io.EOF || m.Sender != nil {
			t.Errorf("at the end: %v, %v", m.Sender, err)
		}
	})
}

// A socket that is no AF_UNIX socket or a kernel that is too old says so; here one that is closed.
func TestOptionUnsupported(t *testing.T) {
	testutil.NoLeaks(t)
	a, b, err := scm.Pair(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	a.Close()
	for name, set := range map[string]func(bool) error{"PassCred": a.SetPassCred, "PassPIDFD": a.SetPassPIDFD, "PassRights": a.SetPassRights} {
		if set(true) == nil {
			t.Errorf("%s on a closed Conn: no error", name)
		}
	}
}
