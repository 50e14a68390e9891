// Package address reads the addresses of fdpass's -l and opens sockets on them, for programs that will
// inherit them: as raw numbers that are not in the runtime's poller and whose blocking mode is set once,
// when they are opened, because everybody who has a socket shares it.
package address

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// An Address says where a socket is to be.
type Address struct {
	Name    string // what the program may know it by, "" if nobody said
	Network string // tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixpacket, unixgram; fd for one that is open already
	Where   string // host:port, a path, "@" and an abstract name, or a number
}

// Usage is the help of a flag that takes an address.
const Usage = "[NAME=]tcp://HOST:PORT, udp://HOST:PORT, unix:PATH, unixpacket:PATH, unixgram:PATH, fd:N, or short: PORT, HOST:PORT, /PATH, @ABSTRACT"

var (
	name     = regexp.MustCompile(`^([A-Za-z0-9_.-]+)=(.+)$`)
	networks = map[string]bool{"tcp": true, "tcp4": true, "tcp6": true, "udp": true, "udp4": true, "udp6": true,
		"unix": true, "unixpacket": true, "unixgram": true, "fd": true}
)

// Parse reads an address as it is given on a command line.
func Parse(s string) (a Address, err error) {
	rest := s
	if m := name.FindStringSubmatch(s); m != nil {
		a.Name, rest = m[1], m[2]
	}
	switch network, where, ok := strings.Cut(rest, ":"); {
	case ok && networks[network]:
		a.Network, a.Where = network, where
	case strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, "@"):
		a.Network, a.Where = "unix", rest
	case isPort(rest):
		a.Network, a.Where = "tcp", ":"+rest
	default:
		a.Network, a.Where = "tcp", rest
	}
	if len(a.Name) > 255 {
		return Address{}, errors.Errorf("address %q: a name has up to 255 characters", s)
	}
	if err := a.check(); err != nil {
		return Address{}, errors.WithMessagef(err, "address %q", s)
	}
	return a, nil
}

// check looks at Where, and takes the // of a URL away.
func (a *Address) check() error {
	switch {
	case a.Network == "fd":
		n, err := strconv.Atoi(a.Where)
		if err != nil || n < 0 {
			return errors.New("fd: wants the number of an open descriptor")
		}
		return nil
	case a.Local():
		if strings.HasPrefix(a.Where, "//") { // unix:///run/x is a URL, unix://x is not a path
			a.Where = strings.TrimPrefix(a.Where, "//")
			if !strings.HasPrefix(a.Where, "/") {
				return errors.New("a URL wants an absolute path, as unix:///run/web.sock")
			}
		}
		if a.Where == "" || a.Where == "@" || strings.ContainsRune(a.Where, 0) {
			return errors.New("wants a path, or @ and a name")
		}
		return nil
	}
	a.Where = strings.TrimPrefix(a.Where, "//")
	_, port, err := net.SplitHostPort(a.Where)
	if err != nil {
		return errors.New("wants HOST:PORT; another kind begins as " + strings.Join([]string{"tcp://", "udp://", "unix:", "unixpacket:", "unixgram:", "fd:"}, " "))
	}
	if !isPort(port) {
		return errors.Errorf("%q is no port", port)
	}
	return nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// Local reports whether the socket is of the AF_UNIX namespace.
func (a Address) Local() bool { return strings.HasPrefix(a.Network, "unix") }

// Path returns the path of the socket, made absolute, and false if it has none.
func (a Address) Path() (string, bool) {
	if !a.Local() || strings.HasPrefix(a.Where, "@") {
		return "", false
	}
	path, err := filepath.Abs(a.Where)
	if err != nil {
		path = a.Where
	}
	return path, true
}

// String returns the address as Parse reads it, without the name.
func (a Address) String() string {
	if a.Local() || a.Network == "fd" {
		return a.Network + ":" + a.Where
	}
	return a.Network + "://" + a.Where
}

// Options are how sockets are opened.
type Options struct {
	Backlog  int         // of those that listen; 0 is as many as the system allows
	Mode     os.FileMode // of a path, exactly, whatever the umask is; 0 is 0666 without the umask
	Nonblock bool        // O_NONBLOCK
}

// A Socket is an open socket of which only the number is known. The zero FD is a number: make Sockets by
// Open.
type Socket struct {
	Address
	FD    int
	Bound string // where it is by getsockname(2): host:port, a path, "@" and a name; "" if it has no name

	Made PathID // of the path, if Open made one
}

// A PathID tells a path from one that replaced it. A file system gives the number of a removed inode to
// the next one, so it has the time as well, which nothing changes on a socket.
type PathID struct {
	Dev, Ino uint64
	Time     int64 // of modification, in ns
}

// AtPath reports whether the socket is bound to a path or an abstract name.
func (s *Socket) AtPath() bool {
	return s.Local() || s.Network == "fd" && (strings.HasPrefix(s.Bound, "/") || strings.HasPrefix(s.Bound, "@"))
}

// Written returns the address for programs that compare it with their own configuration by its text:
// as it was given, but with the port that the system chose.
func (s *Socket) Written() string {
	if s.Network == "fd" {
		return s.Bound
	}
	if path, ok := s.Path(); ok {
		return path
	}
	if host, port, err := net.SplitHostPort(s.Where); err == nil && (port == "0" || host == "") && !s.Local() {
		return s.Bound
	}
	return s.Where
}
