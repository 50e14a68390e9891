//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A descriptor is what fdpass says about one, in JSON and for people.
type descriptor struct {
	FD          int         `json:"fd"` // its number, or its place in a message
	Kind        scm.Kind    `json:"kind"`
	Name        string      `json:"name,omitempty"`
	Access      string      `json:"access"` // r, w, rw; path for O_PATH
	Nonblocking bool        `json:"nonblocking"`
	Append      bool        `json:"append"`
	Device      uint64      `json:"device"`
	Inode       uint64      `json:"inode"`
	Seals       []string    `json:"seals,omitempty"`
	Unread      *int        `json:"unread,omitempty"` // bytes that can be read without waiting, of pipes and sockets
	Unsent      *int        `json:"unsent,omitempty"` // bytes (of memory, for a unix socket) that the other end has not taken
	Socket      *socketJSON `json:"socket,omitempty"`
}

type socketJSON struct {
	Domain    string `json:"domain"`
	Type      string `json:"type"`
	Protocol  string `json:"protocol,omitempty"`
	Listening bool   `json:"listening"`
	ShutDown  bool   `json:"shut_down"`
	Local     string `json:"local,omitempty"`
	Remote    string `json:"remote,omitempty"`
	Cookie    uint64 `json:"cookie,omitempty"`
	NetNS     uint64 `json:"netns,omitempty"`

	// Of a TCP listener: connections that wait to be accepted, and how many may.
	Queue   *int `json:"queue,omitempty"`
	Backlog *int `json:"backlog,omitempty"`
}

// descriptorOf says what c is, and calls it fd. It borrows c.
func descriptorOf(c syscall.Conn, fd int) (descriptor, error) {
	info, err := scm.Inspect(c)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{
		FD: fd, Kind: info.Kind, Name: info.Name, Access: access(&info),
		Nonblocking: info.Nonblocking, Append: info.Append, Device: info.Dev, Inode: info.Ino,
		Seals: sealNames(info.Sealed),
	}
	if s := info.Socket; s != nil {
		d.Socket = &socketJSON{
			Domain: domainName(s.Domain), Type: typeName(s.Style), Protocol: protocolName(s.Domain, s.Protocol),
			Listening: s.Listening, ShutDown: s.ShutDown, Local: addressText(s.Local), Remote: addressText(s.Remote),
			Cookie: s.Cookie, NetNS: s.NetNS,
		}
	}
	err = sysfd.Control(c, func(fd int) error {
		queues(fd, &d)
		return nil
	})
	return d, err
}

func access(info *scm.Info) string {
	switch {
	case info.Path:
		return "path"
	case info.Readable && info.Writable:
		return "rw"
	case info.Writable:
		return "w"
	case info.Readable:
		return "r"
	}
	return "-"
}

func addressText(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

var domains = map[int]string{unix.AF_UNIX: "unix", unix.AF_INET: "inet", unix.AF_INET6: "inet6"}

func domainName(domain int) string {
	if name, ok := domains[domain]; ok {
		return name
	}
	return "domain " + strconv.Itoa(domain)
}

func typeName(style socketpair.Style) string {
	switch style {
	case socketpair.Stream:
		return "stream"
	case socketpair.Datagram:
		return "datagram"
	case socketpair.SeqPacket:
		return "seqpacket"
	case unix.SOCK_RAW:
		return "raw"
	}
	return "type " + strconv.Itoa(int(style))
}

func protocolName(domain, protocol int) string {
	switch {
	case protocol == 0 || domain != unix.AF_INET && domain != unix.AF_INET6:
		return ""
	case protocol == unix.IPPROTO_TCP:
		return "tcp"
	case protocol == unix.IPPROTO_UDP:
		return "udp"
	case protocol == 262: // IPPROTO_MPTCP
		return "mptcp"
	}
	return "protocol " + strconv.Itoa(protocol)
}

// mode is the column of modes.
func (d *descriptor) mode() string {
	mode := d.Access
	if d.Append {
		mode += ",append"
	}
	if d.Nonblocking {
		mode += ",nonblock"
	}
	return mode
}

// what is the last column.
func (d *descriptor) what() string {
	s := d.Socket
	if s == nil {
		what := legible(d.Name)
		if len(d.Seals) > 0 {
			what += ", sealed " + strings.Join(d.Seals, "+")
		}
		if d.Unread != nil && *d.Unread > 0 {
			what += fmt.Sprintf(", %d bytes to read", *d.Unread)
		}
		return what
	}
	what := s.Protocol
	if what == "" {
		what = s.Domain + " " + s.Type
	}
	switch local, remote := legible(s.Local), legible(s.Remote); {
	case s.Listening:
		what += " listening at " + orUnnamed(local)
	case remote != "":
		what += " " + orUnnamed(local) + " to " + remote
	default:
		what += " " + orUnnamed(local)
	}
	if s.ShutDown {
		what += ", shut down"
	}
	if s.Queue != nil {
		what += fmt.Sprintf(", %d of %d wait to be accepted", *s.Queue, *s.Backlog)
	}
	if d.Unread != nil && *d.Unread > 0 {
		what += fmt.Sprintf(", %d bytes to read", *d.Unread)
	}
	if s.Cookie != 0 {
		what += fmt.Sprintf(", cookie %d", s.Cookie)
	}
	return what
}

func orUnnamed(address string) string {
	if address == "" {
		return "(unnamed)"
	}
	return address
}

// legible quotes a name that a terminal would take for more than letters. Whoever sent a file chose it.
func legible(name string) string {
	for _, r := range name {
		if !strconv.IsPrint(r) {
			return strconv.Quote(name)
		}
	}
	return name
}

// writeTable writes descriptors as a table; number is the heading of the first column.
func writeTable(w io.Writer, number string, all []descriptor) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\tKIND\tMODE\tWHAT\n", number)
	for i := range all {
		d := &all[i]
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", d.FD, d.Kind, d.mode(), d.what())
	}
	return t.Flush()
}
