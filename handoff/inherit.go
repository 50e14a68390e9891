package handoff

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
	"github.com/fdkit/fdkit/systemd"
)

// managersNetwork is the network of sockets that the service manager has given; the address is the socket's name.
const managersNetwork = "systemd"

// managersMark is the metadata of a socket that the service manager has made, and whose path is not ours to
// remove, whatever generation is the last.
const managersMark = "systemd"

// given returns the socket that the service manager has made for this network and address, nil if it has
// made none and the caller may. Its address is looked at when it has none of this name: a unit and a program
// that both say port 8080 mean the same.
func (s *Service) given(network, address string, fits func(*scm.SocketInfo) bool) (*systemd.File, error) {
	var others []string
	for _, f := range s.inherited {
		info, err := scm.Inspect(f)
		if err != nil || info.Socket == nil || !fits(info.Socket) { // or somebody has taken it
			continue
		}
		if network == managersNetwork && f.Name == address || network != managersNetwork && isAt(info.Socket, network, address) {
			return f, nil
		}
		others = append(others, f.Name)
	}
	if network != managersNetwork {
		return nil, nil
	}
	have := "gave none"
	if len(others) > 0 {
		have = "has " + strings.Join(others, ", ")
	}
	return nil, errors.WithMessagef(os.ErrNotExist, "the service manager %s, but no %q (FileDescriptorName=)", have, address)
}

func listens(k *scm.SocketInfo) bool { return k.Listening }

func receives(k *scm.SocketInfo) bool { return k.Style == socketpair.Datagram && k.Remote == nil }

// isAt reports whether net.Listen or net.ListenPacket, with these arguments, would make this socket. Port 0 is no
// address, and a host with several is its first one, as for package net.
func isAt(k *scm.SocketInfo, network, address string) bool {
	switch local := k.Local.(type) {
	case *net.TCPAddr:
		want, err := net.ResolveTCPAddr(network, address)
		return err == nil && isTCP(k.Protocol) && want.Port == local.Port && isIP(network, local.IP, want.IP) && local.Zone == want.Zone
	case *net.UDPAddr:
		want, err := net.ResolveUDPAddr(network, address)
		return err == nil && want.Port == local.Port && isIP(network, local.IP, want.IP) && local.Zone == want.Zone
	case *net.UnixAddr:
		styles := map[string]socketpair.Style{
			"unix": socketpair.Stream, "unixpacket": socketpair.SeqPacket, "unixgram": socketpair.Datagram,
		}
		if style, ok := styles[network]; !ok || style != k.Style || address == "" {
			return false
		}
		if path, err := filepath.Abs(address); err == nil && address[0] != '@' {
			address = path
		}
		return local.Name == address
	}
	return false
}

// isTCP keeps SCTP out, which listens on streams too. Not every system tells.
func isTCP(protocol int) bool {
	const mptcp = 262
	return protocol == 0 || protocol == syscall.IPPROTO_TCP || protocol == mptcp
}

func isIP(network string, have, want net.IP) bool {
	v4 := have.To4() != nil
	switch {
	case strings.HasSuffix(network, "4") && !v4, strings.HasSuffix(network, "6") && v4:
		return false
	case len(want) == 0: // every address
		return have.IsUnspecified()
	}
	return have.Equal(want)
}

// leaveGiven closes what the service manager gave and nobody has taken. It has copies of its own.
func (s *Service) leaveGiven() {
	for _, f := range s.inherited {
		if sysfd.Control(f, func(int) error { return nil }) != nil {
			continue // somebody has
		}
		_ = f.Close()
		s.tell(Event{Kind: EventUnclaimed, Name: managersNetwork + "://" + f.Name})
	}
}
