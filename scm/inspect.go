//go:build unix

package scm

import (
	"net"
	"os"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/socketpair"
)

// A Kind says what an open file is.
type Kind string

// The kinds of open files. Those that only Linux has are told apart only there.
const (
	File         Kind = "file"
	Directory    Kind = "directory"
	Pipe         Kind = "pipe" // a FIFO too
	Socket       Kind = "socket"
	Terminal     Kind = "terminal"
	CharDevice   Kind = "character device"
	BlockDevice  Kind = "block device"
	MemFD        Kind = "memfd"
	PIDFD        Kind = "pidfd"
	Epoll        Kind = "epoll"
	EventFD      Kind = "eventfd"
	TimerFD      Kind = "timerfd"
	SignalFD     Kind = "signalfd"
	Inotify      Kind = "inotify"
	Fanotify     Kind = "fanotify"
	IOURing      Kind = "io_uring"
	UserFaultFD  Kind = "userfaultfd"
	Namespace    Kind = "namespace"
	OtherKind    Kind = "other"
	SymbolicLink Kind = "symbolic link" // opened with O_PATH
)

// Info is what [Inspect] finds out.
type Info struct {
	Kind Kind

	// Name is what /proc/self/fd shows: a path, or such as "socket:[4711]"; "" without /proc.
	Name string

	// Readable and Writable are the access mode. A descriptor opened with O_PATH is neither: Path.
	Readable, Writable, Path bool

	// Append and Nonblocking are modes of the open file description: everybody who has it shares
	// them.
	Append, Nonblocking bool

	// Dev and Ino are the file's identity. All sockets share Dev.
	Dev, Ino uint64

	// Sealed are the seals of a memfd or another file in memory, F_SEAL_…; 0 for others. An unsealed
	// one can shrink under the reader's feet.
	Sealed int

	// Socket is set for sockets.
	Socket *SocketInfo
}

// SocketInfo is what [Inspect] finds out about a socket.
type SocketInfo struct {
	Domain   int // AF_UNIX, AF_INET, …
	Style    socketpair.Style
	Protocol int // IPPROTO_TCP, …; 0 if the system does not say

	// Listening sockets accept connections. A Unix listener that is ShutDown says it listens and never
	// accepts again; on a connection that is ShutDown the other end writes no more.
	Listening, ShutDown bool

	// Local and Remote are the addresses; nil where there is none.
	Local, Remote net.Addr

	// Cookie is the kernel's name for the socket, unique until it boots (SO_COOKIE); 0 elsewhere.
	Cookie uint64

	// NetNS is the cookie of its network namespace (SO_NETNS_COOKIE, Linux 5.14), else 0. A socket
	// stays in the namespace in which it was made, wherever it travels.
	NetNS uint64
}

// Inspect tells what a descriptor is: its own, or a received one before it is trusted. A receiver
// that expects a listener, or must not get a directory into its sandbox, looks here first.
//
// It borrows c and changes nothing. It waits as fstat(2) does, for a server that does not answer if the
// file is of a network or FUSE file system. The error is that of fstat(2), or os.ErrClosed
// or net.ErrClosed; os.ErrInvalid for nil, which [Files.Lend] returns if a peer sent fewer than expected.
func Inspect(c syscall.Conn) (Info, error) {
	var info Info
	if c == nil {
		return info, errors.WithMessage(os.ErrInvalid, "scm: inspect")
	}
	err := sysfd.Control(c, func(fd int) error { return inspect(fd, &info) })
	return info, errors.WithMessage(err, "scm: inspect")
}

func inspect(fd int, info *Info) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	info.Dev, info.Ino = uint64(st.Dev), uint64(st.Ino)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil {
		setFlags(info, flags)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		info.Kind = File
	case unix.S_IFDIR:
		info.Kind = Directory
	case unix.S_IFIFO:
		info.Kind = Pipe
	case unix.S_IFLNK:
		info.Kind = SymbolicLink
	case unix.S_IFBLK:
		info.Kind = BlockDevice
	case unix.S_IFCHR:
		info.Kind = CharDevice
		if isTerminal(fd) {
			info.Kind = Terminal
		}
	case unix.S_IFSOCK:
		info.Kind = Socket
		if !info.Path {
			info.Socket = inspectSocket(fd)
		}
	default:
		info.Kind = OtherKind
	}
	inspectSystem(fd, info)
	return nil
}

func setFlags(info *Info, flags int) {
	info.Nonblocking = flags&unix.O_NONBLOCK != 0
	info.Append = flags&unix.O_APPEND != 0
	if openPath != 0 && flags&openPath != 0 {
		info.Path = true
		return
	}
	mode := flags & unix.O_ACCMODE
	info.Readable = mode == unix.O_RDONLY || mode == unix.O_RDWR
	info.Writable = mode == unix.O_WRONLY || mode == unix.O_RDWR
}

func inspectSocket(fd int) *SocketInfo {
	s := new(SocketInfo)
	option := func(name int) int {
		value, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		return value
	}
	s.Style = socketpair.Style(option(unix.SO_TYPE))
	s.Listening = option(unix.SO_ACCEPTCONN) != 0
	s.ShutDown = s.Style != socketpair.Datagram && sysfd.HungUp(fd)
	if local, err := unix.Getsockname(fd); err == nil {
		s.Domain, s.Local = address(local, s.Style)
	}
	if remote, err := unix.Getpeername(fd); err == nil {
		_, s.Remote = address(remote, s.Style)
	} else if !s.Listening && s.Style != socketpair.Datagram {
		s.ShutDown = false // never connected: the hangup says nothing
	}
	inspectSystemSocket(fd, s)
	return s
}

// address makes an address of package net.
func address(sa unix.Sockaddr, style socketpair.Style) (domain int, addr net.Addr) {
	var ip net.IP
	var port int
	var zone string
	switch sa := sa.(type) {
	case *unix.SockaddrUnix:
		if isUnnamed(sa) {
			return unix.AF_UNIX, nil
		}
		return unix.AF_UNIX, &net.UnixAddr{Name: sa.Name, Net: unixNetwork(style)}
	case *unix.SockaddrInet4:
		domain, ip, port = unix.AF_INET, net.IP(sa.Addr[:]), sa.Port
	case *unix.SockaddrInet6:
		domain, ip, port = unix.AF_INET6, net.IP(sa.Addr[:]), sa.Port
		if sa.ZoneId != 0 {
			if ifi, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				zone = ifi.Name
			}
		}
	default:
		return unix.AF_UNSPEC, nil
	}
	switch style {
	case socketpair.Stream:
		return domain, &net.TCPAddr{IP: ip, Port: port, Zone: zone}
	case socketpair.Datagram:
		return domain, &net.UDPAddr{IP: ip, Port: port, Zone: zone}
	}
	return domain, &net.IPAddr{IP: ip, Zone: zone}
}

func unixNetwork(style socketpair.Style) string {
	switch style {
	case socketpair.Datagram:
		return "unixgram"
	case socketpair.SeqPacket:
		return "unixpacket"
	}
	return "unix"
}
