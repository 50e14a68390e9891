//go:build unix

package systemd

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// notifySocketVariable says where the manager listens: a path, or an abstract name that begins with @.
const notifySocketVariable = "NOTIFY_SOCKET"

// maxNotification is what a manager reads at most; it drops what is longer and says so only in its log.
const maxNotification = 4096

// Notify tells the service manager, all states in one message: sd_notify(3). It returns false, and no error,
// if there is no manager that listens, which is when NOTIFY_SOCKET is not in the environment. That a message
// was sent does not say that it was read, believed or even permitted (NotifyAccess=): that it was read,
// [Barrier] tells.
//
// NOTIFY_SOCKET stays in the environment, for a successor that this process starts; a manager believes
// other processes only with NotifyAccess=all. Notify waits while the manager's queue is full, until ctx is
// done, and returns ctx's error then. Other errors: [ErrEnvironment] for a malformed NOTIFY_SOCKET,
// EMSGSIZE for more than 4096 bytes, ENOENT, ECONNREFUSED or EACCES if nobody listens there or may be told.
func Notify(ctx context.Context, states ...State) (bool, error) {
	sent, err := notify(ctx, nil, states)
	return sent, errors.WithMessage(err, "systemd: notify")
}

// NotifyFor is [Notify] in the name of another process: sd_pid_notify(3). A helper tells the manager what
// its parent, the service, does. Without the privilege to do so, CAP_SYS_ADMIN in the user namespace that
// owns the pid namespace, which root of a container may not have, and on systems that do not know it, the
// message is in the name of this process, and the manager may not believe it.
func NotifyFor(ctx context.Context, pid int, states ...State) (bool, error) {
	sent, err := withManager(ctx, func(c *net.UnixConn) error {
		p, err := join(states)
		if err != nil {
			return err
		}
		control := stamp(pid)
		if err := sendStamped(c, p, control); err != unix.EPERM && err != unix.ESRCH || control == nil {
			return os.NewSyscallError("sendmsg", err)
		}
		return os.NewSyscallError("sendmsg", sendStamped(c, p, nil))
	})
	return sent, errors.WithMessagef(err, "systemd: notify for process %d", pid)
}

// Barrier waits until the manager has handled everything that this process has told it before:
// sd_notify_barrier(3), systemd 246. Who tells a MainPID waits so before it ends. It blocks until then or
// until ctx is done, and returns ctx's error then, which is also what happens with a manager that does not
// know BARRIER=1. Errors and the result are otherwise those of [Notify].
func Barrier(ctx context.Context) (bool, error) {
	sent, err := barrier(ctx)
	return sent, errors.WithMessage(err, "systemd: barrier")
}

func barrier(ctx context.Context) (bool, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer r.Close()
	sent, err := notify(ctx, []syscall.Conn{w}, []State{"BARRIER=1"})
	_ = w.Close() // now only the manager has it
	if !sent || err != nil {
		return sent, err
	}
	defer until(ctx, r.SetReadDeadline)()
	if _, err = r.Read(make([]byte, 1)); err == io.EOF {
		return true, nil
	}
	return true, ended(ctx, err)
}

// Store leaves descriptors with the manager, under one name: the next process of the service gets them
// from [Inherited]. They are borrowed; the manager has copies of its own. Its unit needs
// FileDescriptorStoreMax=, else, or if that many are in the store, the manager refuses them and nobody
// hears of it, unless it tells the limit in the environment (FDSTORE, systemd 254): then it is ENOSPC. A
// name has up to 255 printable ASCII characters and no colon, else it is EINVAL.
//
// A file that is in the store already is kept once. There may be others of this name: they add up, in no
// order, so what must be told apart needs a name of its own. Store sends as many messages as it takes,
// with a [Barrier] between two. The states go along with each: [Unwatched] is for these. Errors and the
// result are otherwise those of [Notify]; after an error some may be stored, which [Remove] undoes.
func Store(ctx context.Context, name string, files []syscall.Conn, states ...State) (bool, error) {
	sent, err := store(ctx, name, files, states)
	return sent, errors.WithMessagef(err, "systemd: store %d descriptors as %q", len(files), name)
}

func store(ctx context.Context, name string, files []syscall.Conn, states []State) (bool, error) {
	if err := checkName(name); err != nil || len(files) == 0 {
		return false, err
	}
	if limit, ok := storeLimit(); ok && len(files) > limit {
		return false, errors.WithMessagef(unix.ENOSPC, "FileDescriptorStoreMax= is %d", limit)
	}
	states = append([]State{"FDSTORE=1", State("FDNAME=" + name)}, states...)
	for {
		batch := files[:min(len(files), scm.MaxFDs)]
		files = files[len(batch):]
		if sent, err := notify(ctx, batch, states); !sent || err != nil || len(files) == 0 {
			return sent, err
		}
		// An ordinary user may not have many in flight.
		if sent, err := barrier(ctx); err != nil {
			return sent, err
		}
	}
}

// Remove takes the descriptors of this name out of the manager's store, all of them. Errors and the result
// are those of [Notify].
func Remove(ctx context.Context, name string) (bool, error) {
	err := checkName(name)
	sent := false
	if err == nil {
		sent, err = notify(ctx, nil, []State{"FDSTOREREMOVE=1", State("FDNAME=" + name)})
	}
	return sent, errors.WithMessagef(err, "systemd: remove %q from the descriptor store", name)
}

// checkName refuses a name that the manager would replace by its own.
func checkName(name string) error {
	valid := len(name) <= 255
	for i := range len(name) {
		valid = valid && name[i] >= ' ' && name[i] < 127 && name[i] != ':'
	}
	if !valid {
		return errors.WithMessage(unix.EINVAL, "a name has up to 255 printable ASCII characters and no colon")
	}
	return nil
}

func notify(ctx context.Context, files []syscall.Conn, states []State) (bool, error) {
	p, err := join(states)
	if err != nil {
		return false, err
	}
	return withManager(ctx, func(u *net.UnixConn) error {
		c, err := scm.NewConn(u)
		if err != nil {
			return err
		}
		return c.Send(p, files...)
	})
}

// join makes one message of the states.
func join(states []State) ([]byte, error) {
	var b strings.Builder
	for i, s := range states {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(string(s))
	}
	if b.Len() == 0 {
		return nil, errors.WithMessage(unix.EINVAL, "nothing to say")
	}
	if b.Len() > maxNotification {
		return nil, errors.WithMessagef(unix.EMSGSIZE, "%d bytes, a manager reads %d", b.Len(), maxNotification)
	}
	return []byte(b.String()), nil
}

// withManager lends a socket that is connected to the manager. A connected one, because only of such a one
// the poller can tell when the other end has room.
func withManager(ctx context.Context, send func(*net.UnixConn) error) (bool, error) {
	addr, err := managerAddr()
	if addr == nil || err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	c, err := net.DialUnix("unixgram", nil, addr)
	if err != nil {
		return false, err
	}
	defer c.Close()
	defer until(ctx, c.SetWriteDeadline)()
	if err := send(c); err != nil {
		return false, ended(ctx, err)
	}
	return true, nil
}

// managerAddr returns nil if there is no manager.
func managerAddr() (*net.UnixAddr, error) {
	switch name := os.Getenv(notifySocketVariable); {
	case name == "":
		return nil, nil
	case len(name) > 1 && (name[0] == '/' || name[0] == '@'):
		return &net.UnixAddr{Name: name, Net: "unixgram"}, nil
	case strings.HasPrefix(name, "vsock"):
		return nil, errors.WithMessagef(sysfd.Unsupported(unix.EAFNOSUPPORT), "%s=%s", notifySocketVariable, name)
	default:
		return nil, malformed(notifySocketVariable, name, "is neither a path nor an abstract name")
	}
}

// until makes a deadline of ctx; the function that it returns ends that.
func until(ctx context.Context, setDeadline func(time.Time) error) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = setDeadline(time.Unix(1, 0)) })
}

// ended returns the error of ctx if that is why err came.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// sendStamped sends one message with control data, as a plain sendmsg(2).
func sendStamped(c *net.UnixConn, p, control []byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	if err := raw.Write(func(fd uintptr) bool {
		errno = unix.Sendmsg(int(fd), p, control, nil, unix.MSG_NOSIGNAL)
		return errno != unix.EAGAIN
	}); err != nil {
		return err
	}
	return errno
}
