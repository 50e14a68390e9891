//go:build unix

package systemd

import (
	"context"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// A NotifyListener is the manager's end of [Notify]: for a program that starts others and wants to know when
// they are ready.
type NotifyListener struct {
	conn *scm.Conn
	addr string
	file os.FileInfo // what lies at a path
}

// A Notification is one message of a service. Close it, or take out of its Files what is to stay.
type Notification struct {
	// State is what it says, all lines of it: ask with [State.Get].
	State State

	// Sender is who says it, with a pidfd in Sender.Process where the kernel has it (Linux 6.5). It is as
	// good as the sender is unprivileged: root can write in the name of any process, as systemd-notify
	// does for its parent, and see [credentials.Exchange]. A short program such as systemd-notify
	// has often ended when its message is read.
	Sender *credentials.Sender

	// Files are for the descriptor store, or what nobody expected.
	Files scm.Files
}

// Close closes the descriptors that nobody took, and the sender's process. A sender can make close(2) of one
// take long, with SO_LINGER or a file system of its own; then that goes on in the background.
func (n *Notification) Close() error {
	if n == nil {
		return nil
	}
	_ = n.Sender.Close()
	var left []int
	for i := range n.Files.Len() {
		left = append(left, n.Files.TakeFD(i))
	}
	sysfd.Discard(left)
	return nil
}

// ListenNotify listens at a path, which must not exist, or at an abstract name that begins with @: give
// [NotifyListener.Addr] to the services, in NOTIFY_SOCKET. Everybody who may write to the path can send,
// which is this user and root unless the umask or a chmod says otherwise, and everybody at all can to an
// abstract name: who says it is in the [Notification]. Linux only; elsewhere nobody would know
// who, and it is errors.ErrUnsupported. Errors are those of bind(2).
func ListenNotify(addr string) (*NotifyListener, error) {
	l, err := listenNotify(addr)
	return l, errors.WithMessagef(err, "systemd: listen for notifications at %q", addr)
}

func listenNotify(addr string) (*NotifyListener, error) {
	if addr == "" || addr[0] != '/' && addr[0] != '@' {
		return nil, errors.WithMessage(os.ErrInvalid, "neither an absolute path nor an abstract name")
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	conn, err := scm.NewConn(c)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	l := &NotifyListener{conn: conn, addr: addr}
	if addr[0] == '/' {
		l.file, err = os.Lstat(addr)
	}
	if err == nil {
		err = conn.SetPassCred(true)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	_ = conn.SetPassPIDFD(true) // what the kernel does not have is not told
	return l, nil
}

// Addr returns where it listens, as NOTIFY_SOCKET wants it.
func (l *NotifyListener) Addr() string { return l.addr }

// Receive gives the caller the next message. It blocks until there is one, until ctx is done, with ctx's
// error, or until Close, with net.ErrClosed.
//
// That it is called again says that what it gave before is handled: the [Barrier] of a service ends in
// here. It is for one goroutine. A message that no manager would read is dropped: of more than 4096 bytes,
// empty, or of a process that is not visible here. scm.ErrFilesLost says that a message is lost because
// this process is at its limit of descriptors; the listener goes on after it, as after ctx's error.
func (l *NotifyListener) Receive(ctx context.Context) (*Notification, error) {
	defer until(ctx, l.conn.SetReadDeadline)()
	buffer := make([]byte, maxNotification)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := l.conn.Receive(buffer, scm.MaxFDs)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// Of this context, or of an earlier one that was just about to end.
			if err := l.conn.SetReadDeadline(time.Time{}); err != nil {
				return nil, err
			}
			continue
		case errors.Is(err, scm.ErrTruncated), errors.Is(err, scm.ErrMalformed):
			continue
		case err != nil:
			return nil, errors.WithMessage(err, "systemd: receive a notification")
		}
		n := &Notification{State: State(m.Data), Sender: m.Sender, Files: m.Files}
		if n.Sender == nil || n.State == "" || isBarrier(n) {
			_ = n.Close()
			continue
		}
		return n, nil
	}
}

// isBarrier reports whether a message only asks for the end of its descriptor.
func isBarrier(n *Notification) bool {
	return strings.TrimSuffix(string(n.State), "\n") == "BARRIER=1"
}

// Close ends it and takes its path away, if that is still its own. Whoever waits in a [Barrier] is let go.
func (l *NotifyListener) Close() error {
	if l == nil {
		return nil
	}
	if l.file != nil {
		if now, err := os.Lstat(l.addr); err == nil && os.SameFile(now, l.file) {
			_ = os.Remove(l.addr)
		}
	}
	return l.conn.Close()
}
