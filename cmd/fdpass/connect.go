//go:build unix

package main

import (
	"context"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

func init() { commands = append(commands, newConnect) }

func newConnect() *cobra.Command {
	var timeout time.Duration
	var nonblock bool
	c := &cobra.Command{
		Use:     "connect HOST PORT | connect unix:PATH",
		GroupID: "pass",
		Short:   "Connect, and pass the socket on standard output (ProxyUseFdpass)",
		Long: `Connect connects to a TCP port, trying all addresses of HOST, or to a stream socket at PATH, and
passes the socket to the program that has started it: in one message of one NUL byte on standard
output, which must be one end of an AF_UNIX pair. It ends at once, so that nothing stands between
that program and the other end.

This is what OpenSSH wants of a ProxyCommand with ProxyUseFdpass=yes. The socket is in blocking
mode unless --nonblock is given.`,
		Example: `  ssh -o ProxyCommand='fdpass connect %h %p' -o ProxyUseFdpass=yes example.org
  ssh -o ProxyCommand='fdpass connect unix:/run/vm1.sock' -o ProxyUseFdpass=yes vm1`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			network, address, err := target(args)
			if err != nil {
				return err
			}
			out, err := outputConn()
			if err != nil {
				return err
			}
			ctx, stop := untilDone(c.Context(), "connect", timeout)
			defer stop()
			defer out.Close()
			return because(ctx, passConnection(ctx, out, network, address, nonblock))
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 1:
				return []string{"22\tssh", "80\thttp", "443\thttps"}, cobra.ShellCompDirectiveNoFileComp
			case len(args) > 1:
				return nil, cobra.ShellCompDirectiveNoFileComp
			case strings.HasPrefix(begun, "unix:"):
				return nil, cobra.ShellCompDirectiveDefault
			}
			return []string{"localhost", "unix:"}, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after `TIME`, such as 10s, with exit status 124")
	c.Flags().BoolVar(&nonblock, "nonblock", false, "pass a socket in nonblocking mode, for a program that expects it")
	_ = c.RegisterFlagCompletionFunc("timeout", cobra.FixedCompletions([]string{"2s", "10s", "1m"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func target(args []string) (network, address string, err error) {
	path, unixPath := strings.CutPrefix(args[0], "unix:")
	switch {
	case unixPath && path != "" && len(args) == 1:
		return "unix", path, nil
	case unixPath || len(args) == 1:
		return "", "", usagef("connect HOST PORT, or connect unix:PATH")
	}
	return "tcp", net.JoinHostPort(args[0], args[1]), nil
}

// outputConn takes standard output over, and says what to do if nothing can be passed there.
func outputConn() (*scm.Conn, error) {
	const instead = "start connect from a program that waits for a socket there, such as ssh with ProxyUseFdpass=yes"
	info, err := scm.Inspect(number(1))
	switch {
	case err != nil:
		return nil, usagef("standard output is not open: %s", instead)
	case info.Kind == scm.Terminal:
		return nil, usagef("standard output is a terminal, which takes no socket: %s", instead)
	case info.Kind != scm.Socket:
		return nil, usagef("standard output is a %s, which takes no socket: %s", info.Kind, instead)
	}
	conn, err := scm.Inherit(1)
	if err != nil {
		return nil, usagef("standard output: %w: %s", err, instead)
	}
	return conn, nil
}

// passConnection connects and sends the socket over out.
func passConnection(ctx context.Context, out *scm.Conn, network, address string, nonblock bool) error {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: false}, KeepAlive: -1}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return errors.WithMessage(err, "connect")
	}
	defer conn.Close()
	// As connect(2) leaves a socket, not as package net does.
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetNoDelay(false); err != nil {
			return err
		}
	}
	socket := conn.(syscall.Conn)
	if !nonblock { // nobody else has it yet
		if err := sysfd.Control(socket, func(fd int) error { return unix.SetNonblock(fd, false) }); err != nil {
			return err
		}
	}
	ch := channel{Conn: out, ctx: ctx, inherited: 1}
	stop := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer stop()
	return ch.send([]byte{0}, socket)
}
