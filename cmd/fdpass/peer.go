//go:build unix

package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"net"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
)

func init() { commands = append(commands, newPeer) }

func newPeer() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	fd := -1
	c := &cobra.Command{
		Use:     "peer PATH | peer --fd N",
		GroupID: "look",
		Short:   "Say who serves at a socket path",
		Long: `Peer connects to the socket at PATH, or @NAME for an abstract one, and asks the kernel who is at
the other end: who called listen(2) on it last, with the ids of that moment. That need not be who
accepts: a listener may have been inherited or passed on. The server sees a connection that says
nothing.

The executable is what the process runs now. It is not proof of anything: any process may become
another program. What cannot be known is told with the reason.

With --fd it is about an inherited socket: who connected it; on the end of a pair, who made the pair.`,
		Example: `  fdpass peer /run/docker.sock
  fdpass peer --json /run/dbus/system_bus_socket
  fdpass peer @/tmp/.X11-unix/X0`,
		Args: func(c *cobra.Command, args []string) error {
			if byNumber := c.Flags().Changed("fd"); byNumber == (len(args) == 1) || len(args) > 1 {
				return usagef("peer PATH, or peer --fd N")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var p *peerJSON
			var err error
			if c.Flags().Changed("fd") {
				if !number(fd).inherited() {
					return usagef("descriptor %d is not open here", fd)
				}
				p, err = whoIs(number(fd))
			} else {
				ctx, stop := untilDone(c.Context(), "peer", timeout)
				defer stop()
				p, err = whoServes(ctx, args[0])
				err = because(ctx, err)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), p)
			}
			return p.write(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	c.Flags().IntVar(&fd, "fd", -1, "ask about the inherited socket with the number `N`")
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after `TIME`, such as 2s, with exit status 124")
	c.Flags().Lookup("fd").DefValue = "0" // none, for --help
	_ = c.RegisterFlagCompletionFunc("fd", cobra.NoFileCompletions)
	return c
}

// peerJSON is what is known about a peer, in JSON.
type peerJSON struct {
	Path       string            `json:"path,omitempty"`
	PID        int               `json:"pid"` // 0 if it is not visible here
	UID        uint32            `json:"uid"`
	User       string            `json:"user,omitempty"`
	GID        uint32            `json:"gid"`
	Group      string            `json:"group,omitempty"`
	Groups     []groupJSON       `json:"groups"`
	Alive      *bool             `json:"alive,omitempty"`
	Executable string            `json:"executable,omitempty"`
	Label      string            `json:"label,omitempty"`
	Unknown    map[string]string `json:"unknown"` // what is not known, and why
}

type groupJSON struct {
	GID  uint32 `json:"gid"`
	Name string `json:"name,omitempty"`
}

// whoServes connects to path, in either style that has connections.
func whoServes(ctx context.Context, path string) (*peerJSON, error) {
	refused := false
	for _, network := range []string{"unix", "unixpacket"} {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, path)
		switch {
		case errors.Is(err, unix.EPROTOTYPE): // the other style; abstract names have one for each style
			continue
		case errors.Is(err, unix.ECONNREFUSED):
			refused = true
			continue
		case err != nil:
			return nil, err
		}
		defer conn.Close()
		p, err := whoIs(conn.(syscall.Conn))
		if err != nil {
			return nil, err
		}
		p.Path = path
		return p, nil
	}
	if refused {
		return nil, errors.Errorf("nobody listens at %s", path)
	}
	return nil, errors.Errorf("%s is a datagram socket, and the kernel does not keep who serves one", path)
}

// whoIs asks about the peer of c.
func whoIs(c syscall.Conn) (*peerJSON, error) {
	cred, err := credentials.Peer(c)
	if err != nil {
		return nil, err
	}
	p := &peerJSON{PID: cred.PID, UID: cred.UID, GID: cred.GID, Groups: []groupJSON{}, Unknown: map[string]string{}}
	if u, err := user.LookupId(strconv.FormatUint(uint64(cred.UID), 10)); err == nil {
		p.User = u.Username
	}
	p.Group = groupName(cred.GID)
	if cred.PID == 0 {
		p.Unknown["pid"] = "it is not visible in this pid namespace"
	}
	if groups, err := credentials.PeerGroups(c); err != nil {
		p.Unknown["groups"] = reason(err)
	} else {
		for _, gid := range groups {
			p.Groups = append(p.Groups, groupJSON{gid, groupName(gid)})
		}
	}
	if p.Label, err = credentials.PeerLabel(c); errors.Is(err, stderrors.ErrUnsupported) {
		p.Unknown["label"] = "no security module here labels sockets"
	} else if err != nil {
		p.Unknown["label"] = reason(err)
	}
	p.Label = strings.TrimRight(p.Label, "\x00")
	p.askProcess(c)
	return p, nil
}

// askProcess says what the process is now.
func (p *peerJSON) askProcess(c syscall.Conn) {
	process, err := credentials.PeerProcess(c)
	if errors.Is(err, credentials.ErrPeerGone) {
		alive := false
		p.Alive = &alive
	}
	if err != nil {
		p.Unknown["executable"] = reason(err)
		return
	}
	defer process.Close()
	alive := process.Alive()
	p.Alive = &alive
	if !alive {
		p.Unknown["executable"] = "the process has ended"
		return
	}
	if p.Executable, err = process.Exe(); err != nil {
		p.Unknown["executable"] = reason(err)
	}
}

// reason is the innermost error, which says enough beside the name of what is not known.
func reason(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "not permitted to this user"
	case errors.Is(err, stderrors.ErrUnsupported):
		return "this system does not say"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

func groupName(gid uint32) string {
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
	if err != nil {
		return ""
	}
	return g.Name
}

func named(id uint32, name string) string {
	if name == "" {
		return strconv.FormatUint(uint64(id), 10)
	}
	return fmt.Sprintf("%d (%s)", id, name)
}

// write writes what is known for people.
func (p *peerJSON) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(what, value string) {
		if why, unknown := p.Unknown[what]; unknown {
			value = "unknown: " + why
		}
		fmt.Fprintf(t, "%s\t%s\n", what, value)
	}
	pid := strconv.Itoa(p.PID)
	if p.Alive != nil && !*p.Alive {
		pid += " (has ended)"
	}
	line("pid", pid)
	line("uid", named(p.UID, p.User))
	line("gid", named(p.GID, p.Group))
	var groups []string
	for _, g := range p.Groups {
		groups = append(groups, named(g.GID, g.Name))
	}
	if len(groups) == 0 {
		groups = []string{"none"}
	}
	line("groups", strings.Join(slices.Compact(groups), ", "))
	line("executable", legible(p.Executable))
	line("label", legible(p.Label))
	return t.Flush()
}
