package credentials

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/sysfd"
)

// exchangeMessage is what either end sends, once, with explicit SCM_CREDENTIALS. One packet, or 16
// bytes of a stream.
const exchangeMessage = "fdkit identity 1"

func exchange(ctx context.Context, c syscall.Conn) (Sender, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Sender{}, err
	}
	x := &exchanger{raw: raw}
	if err := x.check(c); err != nil {
		if errors.Is(err, sysfd.ErrNotUnix) || errors.Is(err, sysfd.ErrListening) {
			err = errors.WithMessage(ErrNoPeer, err.Error())
		}
		return Sender{}, err
	}
	if err := ctx.Err(); err != nil {
		return Sender{}, err
	}
	release, err := bindDeadline(ctx, c)
	if err != nil {
		return Sender{}, err
	}
	defer release()

	if err := x.send(); err != nil {
		return Sender{}, x.reason(ctx, err)
	}
	s, err := x.receive()
	return s, x.reason(ctx, err)
}

// bindDeadline makes c's waits end with ctx.
func bindDeadline(ctx context.Context, c syscall.Conn) (release func(), err error) {
	d, ok := c.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return nil, os.ErrNoDeadline
	}
	if err := d.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if ctx.Done() == nil {
		return func() {}, nil
	}
	ran := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = d.SetDeadline(time.Unix(1, 0))
		close(ran)
	})
	return func() {
		if !stop() {
			<-ran
			_ = d.SetDeadline(time.Time{})
		}
	}, nil
}

type exchanger struct {
	raw     syscall.RawConn
	packets bool // the style keeps messages apart

	// Of the system call under way.
	p, oob  []byte
	n       int
	oobn    int
	flags   int
	err     error
	reset   bool // seen once
	ended   bool // seen once
	room    [len(exchangeMessage)]byte
	control [cmsg.BufferSize]byte

	// The options as they were.
	cred, pidfd int
}

// check finds out whether c is a connection that can exchange, and its style.
func (x *exchanger) check(c syscall.Conn) error {
	if u, ok := c.(*net.UnixConn); ok && connected(u) {
		x.packets = u.RemoteAddr().Network() != "unix"
		return nil
	}
	return x.options(func(fd int) error {
		if err := sysfd.CheckUnix(fd); err != nil {
			return err
		}
		style, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		x.packets = style != unix.SOCK_STREAM
		return os.NewSyscallError("getsockopt", err)
	})
}

// reason says what err was about.
func (x *exchanger) reason(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTCONN):
		return gone{err}
	}
	return err
}

// gone adds ErrPeerGone to the errno that says so.
type gone struct{ error }

func (e gone) Error() string   { return ErrPeerGone.Error() + ": " + e.error.Error() }
func (e gone) Unwrap() []error { return []error{ErrPeerGone, e.error} }

// send sends the message with explicit credentials: they hold also if the other end asks for stamps
// only later. The kernel checks them; the ids are the real ones, as in a stamp of its own.
func (x *exchanger) send() error {
	own := cmsg.Credentials{PID: pid, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	x.oob = cmsg.AppendCredentials(x.control[:0], own)
	for x.p = append(x.room[:0], exchangeMessage...); len(x.p) > 0; x.p = x.p[x.n:] {
		err := x.raw.Write(x.trySend)
		if err == nil {
			err = os.NewSyscallError("sendmsg", x.err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pid is ours. It does not change while a Go program runs.
var pid = os.Getpid()

func (x *exchanger) trySend(fd uintptr) bool {
	x.n, x.err = sendmsg(int(fd), x.p, x.oob)
	if x.err == unix.EINVAL && len(x.oob) > 0 {
		// Our own ids have no number in this user namespace. The stamp is then the kernel's, if the
		// other end asks for it already.
		x.oob = nil
		x.n, x.err = sendmsg(int(fd), x.p, nil)
	}
	return x.err != unix.EAGAIN
}

// receive reads the other end's message and not a byte more. Stamps and pidfds are asked for after
// our own message went out: a packet socket that asks binds itself to a name when it sends.
func (x *exchanger) receive() (s Sender, err error) {
	if err := x.options(x.askForStamps); err != nil {
		return Sender{}, err
	}
	defer func() { _ = x.options(x.restore) }()
	for want := exchangeMessage; want != ""; {
		n, part, err := x.receivePart(want)
		if err != nil {
			_ = s.Close()
			return Sender{}, err
		}
		if want == exchangeMessage {
			s = part
		} else {
			// Without options a stream glues writers together, with them it does not: the rest of
			// the message must come from the same one.
			same := part.Cred == s.Cred
			_ = part.Close()
			if !same {
				_ = s.Close()
				return Sender{}, errors.WithMessage(ErrProtocol, "the message has two writers")
			}
		}
		want = want[n:]
	}
	if err := checkForged(&s); err != nil {
		_ = s.Close()
		return Sender{}, err
	}
	return s, nil
}

// receivePart is one recvmsg(2) and what its stamp says. It must bring the beginning of want.
func (x *exchanger) receivePart(want string) (int, Sender, error) {
	x.p, x.reset, x.ended = x.room[:len(want)], false, false
	err := x.raw.Read(x.tryReceive)
	if err == nil {
		err = os.NewSyscallError("recvmsg", x.err)
	}
	if err != nil {
		return 0, Sender{}, err
	}
	got := cmsg.Parse(x.control[:x.oobn], nil)
	var pidfd *os.File
	if fd, err := sysfd.Raise(got.PIDFD); fd >= 0 && err == nil {
		pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	sysfd.Discard(got.FDs)
	stamp := Cred{PID: got.Cred.PID, UID: got.Cred.UID, GID: got.Cred.GID}
	if !got.HasCred {
		stamp = Cred{UID: noID}
	}
	s := NewSender(stamp, pidfd)
	switch {
	case x.n == 0 && !(x.packets && got.HasCred):
		err = ErrPeerGone // the end of a stream has a stamp, {0,0,0}, that of a packet socket has none
	case len(got.FDs) > 0 || x.flags&unix.MSG_CTRUNC != 0:
		err = errors.WithMessage(ErrProtocol, "descriptors came with the message")
	case x.flags&unix.MSG_TRUNC != 0:
		err = errors.WithMessage(ErrProtocol, "the message is too long")
	case !strings.HasPrefix(want, string(x.p[:x.n])), x.packets && x.n < len(want):
		err = errors.WithMessagef(ErrProtocol, "received %q", x.p[:x.n])
	case s == nil:
		err = errors.WithMessagef(ErrNoIdentity, "the stamp is %v", stamp)
	}
	if err != nil {
		_ = s.Close()
		return 0, Sender{}, err
	}
	return x.n, *s, nil
}

func (x *exchanger) tryReceive(fd uintptr) bool {
	for {
		x.n, x.oobn, x.flags, x.err = recvmsg(int(fd), x.p, x.control[:])
		switch {
		case x.err == unix.ECONNRESET && !x.reset:
			x.reset = true // SOCK_SEQPACKET reports it before what is queued,
		case x.err == nil && x.packets && x.n == 0 && x.oobn == 0 && !x.ended:
			x.ended = true // and may report the end before what came with it
		default:
			return x.err != unix.EAGAIN
		}
	}
}

// sendmsg and recvmsg try again after a signal themselves: the poller would wait for an event that
// may have been.
func sendmsg(fd int, p, oob []byte) (n int, err error) {
	for {
		n, err = unix.SendmsgN(fd, p, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// p is never empty: x/sys would read a byte of its own into nothing.
func recvmsg(fd int, p, control []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, p, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, flags, err
		}
	}
}

// askForStamps sets SO_PASSCRED and, where there is one, SO_PASSPIDFD.
func (x *exchanger) askForStamps(fd int) (err error) {
	if x.cred, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED); err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if x.pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSPIDFD); err != nil {
		x.pidfd = 1 // an older kernel: leave it alone
	} else if x.pidfd == 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1)
	}
	return nil
}

// restore sets the options back.
func (x *exchanger) restore(fd int) error {
	if x.cred == 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 0)
	}
	if x.pidfd == 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSPIDFD, 0)
	}
	return nil
}

// options lends the socket to set its options.
func (x *exchanger) options(f func(fd int) error) error {
	var ferr error
	if err := x.raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// checkForged compares the stamp with the process that it names. A privileged sender that writes
// another pid and forgets the ids, as systemd-notify does, is found out; one that writes all three
// is not.
func checkForged(s *Sender) error {
	if s.Process == nil {
		return nil
	}
	info, err := s.Process.Info()
	if err != nil || info.Exited {
		return nil // an older kernel, or the writer has ended since
	}
	if info.RealUID != s.UID || info.RealGID != s.GID {
		return errors.WithMessagef(ErrForged, "stamp %v, process with real uid %d gid %d", s.Cred, info.RealUID, info.RealGID)
	}
	return nil
}
