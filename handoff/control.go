package handoff

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
)

// A control is the socket path at which successors find the service, and the lock that keeps strangers
// out. Both move with the service: the path never disappears, and nobody unlocks, since closing the
// last copy of the lock's open file description does.
type control struct {
	path string
	lock *os.File
	ln   *listener
	file fs.FileInfo // what lies at path; only that is unlinked
}

// findByPath takes over from whoever serves at Options.Socket, or becomes the first. It tries again as
// long as somebody is dying, starting, or handing over there.
func (s *Service) findByPath(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		return errNoPaths // package net would say what it does not have in other words
	}
	if err := checkFolder(filepath.Dir(s.options.Socket), s.options.Policy != nil); err != nil {
		return err
	}
	wait := s.options.Deadlines.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, wait.Hello+wait.Offer)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	var silent time.Time // since when whoever serves there closes without a word
	for {
		retry, err := s.tryPath(ctx)
		if !retry {
			return err
		}
		switch {
		case !errors.Is(err, errSilent):
			silent = time.Time{}
			again.Reset(10 * time.Millisecond)
		case silent.IsZero():
			silent = time.Now()
			again.Reset(100 * time.Millisecond) // each is an event there
		case time.Since(silent) > 2*deathNotice: // one that dies does not accept for so long
			return because(ErrKept, err)
		}
		select {
		case <-again.C: // a lock that another process holds has no event
		case <-ctx.Done():
			return errors.WithMessagef(ctx.Err(), "handoff: %s is neither served nor free: %v", s.options.Socket, err)
		}
	}
}

// checkFolder refuses a folder in which a stranger can put, or lock, what the service looks for there: also with
// the sticky bit, which keeps nobody from being the first. A stranger's own folder is one; a policy of the
// program's may trust other users, so then its owner is the program's business.
func checkFolder(dir string, anyOwner bool) error {
	info, err := os.Stat(dir)
	if err != nil {
		return errors.WithMessage(err, "handoff: the folder of the socket")
	}
	if info.Mode().Perm()&0o002 != 0 {
		return errors.WithMessagef(fs.ErrPermission, "handoff: everybody can write to %s: give the socket a folder of the service's own, such as /run/web", dir)
	}
	owner := int64(info.Sys().(*syscall.Stat_t).Uid)
	// In a user namespace the number of everybody who has none there is nobody's, this process's neither.
	known := credentials.Cred{PID: 1, UID: uint32(owner)}.Known()
	if !anyOwner && owner != 0 && (owner != int64(os.Geteuid()) || !known) {
		return errors.WithMessagef(fs.ErrPermission, "handoff: %s belongs to uid %d: give the socket a folder of the service's own, such as /run/web", dir, owner)
	}
	return nil
}

// silentError is that of a process that has accepted and closed, and has said nothing. If it goes on like that, it
// does not permit us, or we would not permit it.
type silentError struct{ denied error }

// errSilent is what every silentError matches.
var errSilent = errors.New("it closes the connection without a word, as it does with everybody whom its policy refuses")

func (e *silentError) Error() string {
	if e.denied != nil {
		return e.denied.Error()
	}
	return errSilent.Error()
}

func (e *silentError) Unwrap() []error {
	if e.denied != nil {
		return []error{errSilent, e.denied}
	}
	return []error{errSilent, credentials.ErrDenied}
}

func (s *Service) tryPath(ctx context.Context) (retry bool, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixpacket", s.options.Socket)
	if err == nil {
		c, err := scm.NewConn(conn.(*net.UnixConn))
		if err != nil {
			_ = conn.Close()
			return false, err
		}
		denied := policyOr(s.options.Policy).Check(c) // takeFrom takes c over
		err = s.takeFrom(ctx, c)
		if errors.Is(err, credentials.ErrPeerGone) {
			// One that has not said who it is may be dying: the lock tells.
			return true, &silentError{denied}
		}
		return errors.Is(err, ErrPredecessorGone), err
	}
	if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EAGAIN) {
		return false, errors.WithMessage(err, "handoff: look for a predecessor")
	}
	lock, err := os.OpenFile(s.options.Socket+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, errors.WithMessage(err, "handoff: lock")
	}
	if err := flock(lock); err != nil {
		_ = lock.Close()
		return errors.Is(err, syscall.EWOULDBLOCK), errors.WithMessage(err, "handoff: lock")
	}
	if s.control, err = newControl(s.options.Socket, lock); err != nil {
		_ = lock.Close()
		return false, err
	}
	return false, nil
}

// newControl makes the socket at path, which nobody serves, and takes lock over. The socket gets its mode before
// it has a name, and its name only when it listens; a client never finds it in between.
func newControl(path string, lock *os.File) (*control, error) {
	fresh := path + ".new"
	_ = os.Remove(fresh) // of one who died here; we have the lock
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if cerr := raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	ln, err := config.Listen(context.Background(), "unixpacket", fresh)
	if err != nil {
		return nil, errors.WithMessage(err, "handoff: control socket")
	}
	unixLn := ln.(*net.UnixListener)
	unixLn.SetUnlinkOnClose(false)
	if err := os.Rename(fresh, path); err != nil {
		_ = ln.Close()
		_ = os.Remove(fresh)
		return nil, errors.WithMessage(err, "handoff: control socket")
	}
	c := &control{path: path, lock: lock}
	if c.ln, err = newListener(controlItem, unixLn, true); err != nil {
		_ = ln.Close()
		return nil, err
	}
	c.file, _ = os.Lstat(path)
	return c, nil
}

func flock(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("flock", err)
}

// adoptControl takes the predecessor's control socket or lock.
func (s *Service) adoptControl(it *Item) error {
	if s.control == nil {
		s.control = new(control)
	}
	if it.Name == lockItem {
		if it.Kind != File { // there could be two
			return errors.WithMessagef(ErrItem, "%q is a %v", it.Name, it.Kind)
		}
		s.control.lock = it.TakeFile()
		adoptManager(it.Meta)
		return nil
	}
	ln, err := it.TakeListener()
	if err != nil {
		return err
	}
	if s.control.ln, err = newListener(controlItem, ln, true); err != nil {
		_ = ln.Close()
		return err
	}
	s.control.path = string(it.Meta)
	s.control.file, _ = os.Lstat(s.control.path)
	return nil
}

// items are what moves. The lock's takes environ along.
func (c *control) items(environ []byte) []Item {
	return []Item{
		{Name: controlItem, Kind: Listener, Conn: c.ln, Meta: []byte(c.path)},
		{Name: lockItem, Kind: File, Conn: c.lock, Meta: environ},
	}
}

// serveControl hands over to whoever connects.
func (s *Service) serveControl() {
	c := s.control
	if c == nil {
		return
	}
	c.ln.relisten()
	c.ln.resume()
	s.background.Go(func() {
		for {
			accepted, err := c.ln.Accept()
			switch {
			case err == nil:
				s.background.Go(func() { s.welcome(accepted) })
			case errors.Is(err, net.ErrClosed):
				return
			default: // a full descriptor table; nothing tells when it has room again
				select {
				case <-time.After(50 * time.Millisecond):
				case <-c.ln.released():
				}
			}
		}
	})
}

// welcome hands over to a process that has connected.
func (s *Service) welcome(accepted net.Conn) {
	wrapped := accepted.(*conn)
	wrapped.listener.remove(wrapped)
	c, err := scm.NewConn(wrapped.stream.(*net.UnixConn))
	if err != nil {
		_ = accepted.Close()
		return
	}
	// Whoever connected is known at once. One that then says nothing must not hold up a successor.
	var peer credentials.Sender
	if err = policyOr(s.options.Policy).Check(c); err != nil {
		_ = c.Close()
	} else {
		peer, err = begin(s.ctx, c, s.options.Policy, s.options.Deadlines.withDefaults().Hello)
	}
	if err != nil {
		s.tell(Event{Kind: EventKept, Err: because(ErrKept, err)})
		return
	}
	_ = s.handOver(s.ctx, c, &peer) // what happens is told as events
}

// close ends the socket in this process. The last owner takes the path away, if it is still its own.
func (c *control) close(last bool) {
	if c.ln != nil {
		_ = c.ln.release()
	}
	if last && c.file != nil {
		if now, err := os.Lstat(c.path); err == nil && os.SameFile(now, c.file) {
			_ = os.Remove(c.path)
		}
	}
}

// unlock closes this process's copy of the lock. Others may begin afresh if it is the last.
func (c *control) unlock() {
	if c != nil && c.lock != nil {
		_ = c.lock.Close()
	}
}
