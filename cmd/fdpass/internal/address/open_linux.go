package address

import (
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Open opens the socket and gives it to the caller: bound, listening if it is of a kind that does, and
// close-on-exec. For fd:N the number is taken over as it is, mode included.
//
// A path on which nobody listens any more is replaced; one that is served, or is not a socket, is an
// error that matches EADDRINUSE.
func (a Address) Open(o Options) (s *Socket, err error) {
	defer func() { err = errors.WithMessagef(err, "open %s", a) }()
	if a.Network == "fd" {
		return a.adopt()
	}
	s = &Socket{Address: a, FD: -1}
	if path, ok := a.Path(); ok {
		err = s.openPath(path, o)
	} else {
		err = s.open(o)
	}
	if err == nil {
		s.Bound, err = Name(s.FD)
	}
	if err != nil {
		_ = s.Remove()
		s.Close()
		return nil, err
	}
	return s, nil
}

// adopt takes an inherited number over.
func (a Address) adopt() (*Socket, error) {
	fd, _ := strconv.Atoi(a.Where)
	bound, err := Name(fd)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &Socket{Address: a, FD: fd, Bound: bound}, nil
}

func (s *Socket) open(o Options) error {
	sa, domain, style, err := s.sockaddr()
	if err != nil {
		return err
	}
	if o.Nonblock {
		style |= unix.SOCK_NONBLOCK
	}
	if s.FD, err = unix.Socket(domain, style|unix.SOCK_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := s.setOptions(domain, o); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := s.bind(sa, o); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if !s.Listens() {
		return nil
	}
	// listen(2) cuts what is too much to net.core.somaxconn.
	backlog := o.Backlog
	if backlog <= 0 {
		backlog = math.MaxInt32
	}
	return os.NewSyscallError("listen", unix.Listen(s.FD, backlog))
}

func (s *Socket) setOptions(domain int, o Options) error {
	if domain == unix.AF_INET6 {
		only := 0
		if s.Network == "tcp6" || s.Network == "udp6" {
			only = 1
		}
		if err := unix.SetsockoptInt(s.FD, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return err
		}
	}
	if s.Local() {
		return nil
	}
	if !s.Listens() { // SO_REUSEADDR lets anybody of this user take a UDP port as well
		return nil
	}
	return unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

// umask is held while the umask of the process is another one.
var umask sync.Mutex

// bind binds, and gives a path its mode from birth: that of the socket before bind(2), less the umask. A
// chmod(2) afterwards would leave it open to others for a moment.
func (s *Socket) bind(sa unix.Sockaddr, o Options) error {
	path, ok := s.Path()
	if !ok {
		return unix.Bind(s.FD, sa)
	}
	if o.Mode != 0 {
		if err := unix.Fchmod(s.FD, uint32(o.Mode.Perm())); err != nil {
			return err
		}
		umask.Lock()
		defer umask.Unlock()
		defer unix.Umask(unix.Umask(0))
	}
	if err := unix.Bind(s.FD, sa); err != nil {
		return err
	}
	var err error
	s.Made, err = pathID(path)
	return err
}

// Listens reports whether the socket is of a kind that listens.
func (a Address) Listens() bool {
	switch a.Network {
	case "tcp", "tcp4", "tcp6", "unix", "unixpacket":
		return true
	}
	return false
}

func (a Address) sockaddr() (sa unix.Sockaddr, domain, style int, err error) {
	switch a.Network {
	case "unix":
		style = unix.SOCK_STREAM
	case "unixpacket":
		style = unix.SOCK_SEQPACKET
	case "unixgram":
		style = unix.SOCK_DGRAM
	case "tcp", "tcp4", "tcp6":
		tcp, err := net.ResolveTCPAddr(a.Network, a.Where)
		if err != nil {
			return nil, 0, 0, err
		}
		sa, domain, err = a.internet(tcp.IP, tcp.Port, tcp.Zone)
		return sa, domain, unix.SOCK_STREAM, err
	default:
		udp, err := net.ResolveUDPAddr(a.Network, a.Where)
		if err != nil {
			return nil, 0, 0, err
		}
		sa, domain, err = a.internet(udp.IP, udp.Port, udp.Zone)
		return sa, domain, unix.SOCK_DGRAM, err
	}
	where := a.Where
	if path, ok := a.Path(); ok {
		where = path
	}
	return &unix.SockaddrUnix{Name: where}, unix.AF_UNIX, style, nil
}

// internet is as package net does it: no host means all addresses of both families, if there are two.
func (a Address) internet(ip net.IP, port int, zone string) (unix.Sockaddr, int, error) {
	four := a.Network == "tcp4" || a.Network == "udp4"
	if ip == nil && !four && haveIPv6() {
		ip = net.IPv6zero
	}
	if ip == nil {
		ip = net.IPv4zero
	}
	if ip4 := ip.To4(); ip4 != nil {
		return &unix.SockaddrInet4{Port: port, Addr: [4]byte(ip4)}, unix.AF_INET, nil
	}
	sa := &unix.SockaddrInet6{Port: port, Addr: [16]byte(ip.To16())}
	if zone != "" {
		card, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, 0, err
		}
		sa.ZoneId = uint32(card.Index)
	}
	return sa, unix.AF_INET6, nil
}

func haveIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte(net.IPv6loopback)}) == nil
}

// openPath opens a socket with a path, alone in its folder: a socket that is bound and does not listen yet
// looks as if nobody served it any more.
func (s *Socket) openPath(path string, o Options) error {
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	err = s.open(o)
	if !errors.Is(err, unix.EADDRINUSE) || s.Made != (PathID{}) {
		return err
	}
	s.Close()
	s.FD = -1
	if err := s.removeStale(path); err != nil {
		return err
	}
	return s.open(o)
}

// removeStale removes path if it is a socket that nobody serves.
func (s *Socket) removeStale(path string) error {
	before, err := pathID(path)
	if err != nil {
		return err
	}
	sa, domain, style, err := s.sockaddr()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(domain, style|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// Connected, EAGAIN for a full queue, EPROTOTYPE for another style: somebody is there.
	if err := unix.Connect(fd, sa); err != unix.ECONNREFUSED {
		return errors.WithMessage(unix.EADDRINUSE, "a process serves this path")
	}
	if now, err := pathID(path); err != nil || now != before {
		return errors.WithMessage(unix.EADDRINUSE, "somebody else replaced this path just now")
	}
	return os.NewSyscallError("unlink", unix.Unlink(path))
}

// pathID identifies a socket's path.
func pathID(path string) (PathID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return PathID{}, os.NewSyscallError("lstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return PathID{}, errors.WithMessage(unix.EADDRINUSE, "there is a file that is not a socket, remove it")
	}
	return PathID{uint64(st.Dev), st.Ino, st.Mtim.Nano()}, nil
}

const lockPatience = 2 * time.Second

// lockFolder locks the folder itself, flock(2): no file is left behind. Anybody who can read the folder can
// lock it too, for as long as he likes. fdpass has the lock for less than a millisecond, so who has it after
// lockPatience is none, and does not count. One that may not be read
// is not locked.
func lockFolder(dir string) (unlock func(), err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.EACCES {
		return func() {}, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(5 * time.Millisecond) { // a lock has no event
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || err == unix.EWOULDBLOCK && time.Now().After(end) {
			return func() { _ = unix.Close(fd) }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			_ = unix.Close(fd)
			return nil, errors.WithMessagef(os.NewSyscallError("flock", err), "lock the folder %s", dir)
		}
	}
}

// Name returns the name of a socket by getsockname(2), "" if it has none. What is not a socket is ENOTSOCK.
func Name(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(sa.Addr[:]).String(), strconv.Itoa(sa.Port)), nil
	case *unix.SockaddrInet6:
		ip := net.IPAddr{IP: sa.Addr[:]}
		if sa.ZoneId != 0 {
			if card, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				ip.Zone = card.Name
			}
		}
		return net.JoinHostPort(ip.String(), strconv.Itoa(sa.Port)), nil
	case *unix.SockaddrUnix:
		return sa.Name, nil
	}
	return "", nil
}

// Remove removes the path that Open made, if it is still the same socket. Without such a path it does
// nothing.
func (s *Socket) Remove() error {
	path, ok := s.Path()
	if !ok || s.Made == (PathID{}) {
		return nil
	}
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if !s.InPlace() {
		return nil
	}
	s.Made = PathID{}
	return os.NewSyscallError("unlink", unix.Unlink(path))
}

// InPlace reports whether the path that Open made is still this socket. It is true of sockets without a
// path.
func (s *Socket) InPlace() bool {
	path, ok := s.Path()
	if !ok || s.Made == (PathID{}) {
		return true
	}
	now, err := pathID(path)
	return err == nil && now == s.Made
}

// Close closes the number.
func (s *Socket) Close() {
	if s.FD >= 0 {
		_ = unix.Close(s.FD)
		s.FD = -1
	}
}
