//go:build unix

package systemd

import (
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// Files are the descriptors that a process was given, in their order. Those of the descriptor store come
// behind the sockets, in no order: tell them by their name.
type Files []*File

// Named returns the files of that name, which need not be one: all sockets of a unit have one name if
// FileDescriptorName= does not say otherwise.
func (f Files) Named(name string) Files {
	var named Files
	for _, file := range f {
		if file.Name == name {
			named = append(named, file)
		}
	}
	return named
}

// Close closes those that nobody took.
func (f Files) Close() error {
	for _, file := range f {
		_ = file.Close()
	}
	return nil
}

// A File is one descriptor that this process was given. It stays as it came until it is taken; then it
// belongs to the caller. It may be used by several goroutines.
//
// scm.Inspect tells what it is before anybody takes it: whether it is a socket, listens, of which style,
// at which address.
type File struct {
	// Name is what FileDescriptorName= or FDNAME= said, else the name of the unit, "stored" of the
	// descriptor store, or "unknown" if the manager gave no names.
	Name string

	number int

	mu sync.Mutex
	fd int // number, or -1 when it was taken
}

var inherited struct {
	sync.Mutex
	done  bool
	files Files
	err   error
}

// Inherited returns the descriptors that the service manager gave to this process: sd_listen_fds(3). All
// callers get the same set, in which what one took is taken for all. It is empty if there are none, among
// them the case that the variables were meant for another process, which left them in its environment.
// From the first call on they are close-on-exec, and the variables LISTEN_FDS, LISTEN_PID,
// LISTEN_FDNAMES and LISTEN_PIDFDID are gone from the environment: a child would take them for its own.
//
// The numbers are claimed as by socketpair.Inherit. Whoever does not take a file leaves it open. Errors:
// [ErrEnvironment], which says what variable; EBADF if a number was not inherited; socketpair.ErrClaimed if
// one was claimed before. No descriptor is touched then, and every call returns that error.
func Inherited() (Files, error) {
	inherited.Lock()
	defer inherited.Unlock()
	if !inherited.done {
		inherited.files, inherited.err = inherit()
		inherited.done = true
	}
	return append(Files(nil), inherited.files...), inherited.err
}

func inherit() (Files, error) {
	defer clearListen()
	pid := os.Getpid()
	p, err := parseListen(os.LookupEnv, pid, func() uint64 { return pidfdID(pid) })
	if err != nil {
		return nil, err
	}
	var files Files
	for fd := firstFD; fd < firstFD+p.n; fd++ {
		if err := sysfd.Claim(fd, isInherited); err != nil {
			for _, f := range files {
				sysfd.Unclaim(f.number)
			}
			return nil, errors.WithMessagef(err, "systemd: descriptor %d of %s=%d", fd, listenFDs, p.n)
		}
		f := &File{Name: "unknown", number: fd, fd: fd}
		if p.names != nil {
			f.Name = p.names[fd-firstFD]
		}
		files = append(files, f)
	}
	for _, f := range files {
		unix.CloseOnExec(f.fd)
	}
	return files, nil
}

// isInherited refuses a number that was not there when the program began. One that is too many is not
// free for long: the runtime's poller takes it, and closing that would be the end. What came through
// execve(2) is not close-on-exec, and what this process has opened since is.
func isInherited(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if flags&unix.FD_CLOEXEC != 0 {
		return errors.WithMessage(unix.EBADF, "it is close-on-exec, so it was opened here, or somebody has taken it")
	}
	return nil
}

// SyscallConn lends the descriptor, to look at it with scm.Inspect or to send it on. Only the Control
// of what it returns works, and with os.ErrClosed when the file was taken. It must not be taken or closed
// meanwhile.
func (f *File) SyscallConn() (syscall.RawConn, error) { return sysfd.Lent(f.get), nil }

func (f *File) get() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fd
}

// TakeListener gives the descriptor to the caller as a listener, of SOCK_STREAM or SOCK_SEQPACKET, which
// does not unlink its path when it is closed. Its open file description, which the manager shares,
// becomes nonblocking. After an error the file is as it was: os.ErrClosed if it was taken, ENOTSOCK for
// another kind of file, EINVAL for a socket that does not listen, EMFILE.
func (f *File) TakeListener() (net.Listener, error) { return take(f, "listener", sysfd.Listener) }

// TakeConn gives the descriptor to the caller as a connection, as a unit with Accept=yes gets it, or a
// datagram socket with a peer. Mode and errors are those of [File.TakeListener]; ENOTCONN for a
// socket that is not connected, EINVAL for a listener.
func (f *File) TakeConn() (net.Conn, error) { return take(f, "connection", sysfd.Conn) }

// TakePacketConn gives the descriptor to the caller as a packet socket. Mode and errors are those of
// [File.TakeListener]; EINVAL for another style.
func (f *File) TakePacketConn() (net.PacketConn, error) {
	return take(f, "packet socket", sysfd.PacketConn)
}

// TakeFile gives the descriptor to the caller as a file, whatever it is, in the mode in which it came:
// in the runtime's poller if that is nonblocking, else not. It is os.ErrClosed if it was taken.
func (f *File) TakeFile() (*os.File, error) {
	return take(f, "file", func(fd int) (*os.File, error) { return os.NewFile(uintptr(fd), f.Name), nil })
}

// take gives the descriptor to a constructor, which takes it over if it succeeds.
func take[T any](f *File, what string, construct func(fd int) (T, error)) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var none T
	err := os.ErrClosed
	if f.fd >= 0 {
		var t T
		if t, err = construct(f.fd); err == nil {
			f.fd = -1
			return t, nil
		}
	}
	return none, errors.WithMessagef(err, "systemd: take descriptor %d, %q, as a %s", f.number, f.Name, what)
}

// Close closes the descriptor if nobody took it. It works twice.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return os.NewSyscallError("close", err)
}
