//go:build unix

package main

import (
	"context"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/holder"
)

func init() { commands = append(commands, newHold) }

func newHold() *cobra.Command {
	var (
		o       holder.Options
		mode    string
		allow   []string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:     "hold [flags]",
		Short:   "Keep descriptors under names for other programs",
		GroupID: "hold",
		Long: `Keep descriptors for other programs: each is stored under a name, and whoever retrieves it gets the
same open file, also after the program that stored it has ended. It speaks the protocol of
s6-fdholder, so that s6-fdholder-store and the others work with it.

It runs in the foreground until SIGTERM, and then closes what it holds. To replace it by a newer
fdpass, or with other flags, start another hold at the same socket: it takes over everything, clients
notice nothing, and the old one ends. A second socket, SOCKET.handoff, is for that.

The same user and root may do everything. --allow lets others in: WHO=RIGHTS[:REGEXP], where WHO is
uid:ID, gid:ID (a supplementary group too) or any, and RIGHTS are some of

  store     store and delete
  retrieve  retrieve; together with store also take away
  list      see the names
  dump      get everything at once
  restore   store many at once
  all       all of these

for the names that match REGEXP (RE2, not anchored by itself), or all names. Others are refused
before they learn anything.

A crash of the holder itself loses what it holds. Where that matters, let the programs store their
descriptors with the service manager, which does not end (systemd's FileDescriptorStoreMax=).`,
		Example: `  fdpass hold &
  fdpass hold --socket /run/sockets --allow uid:www-data=retrieve:^web- --allow gid:deploy=all --quota 100`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range allow {
				rule, err := holder.ParseRule(s)
				if err != nil {
					return usagef("--allow: %v", err)
				}
				o.Rules = append(o.Rules, rule)
			}
			if mode == "" {
				mode = "600"
				if len(allow) > 0 {
					mode = "666" // the rules decide
				}
			}
			bits, err := strconv.ParseUint(mode, 8, 9)
			if err != nil {
				return usagef("--mode %q is not an octal mode such as 600", mode)
			}
			if o.Max < 0 || o.Quota < 0 {
				return usagef("--max and --quota are not negative")
			}
			o.Mode = fs.FileMode(bits)
			o.Log = slog.New(slog.DiscardHandler)
			if verbose {
				o.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			}
			return holder.Hold(cmd.Context(), o)
		},
	}
	socketFlag(cmd, &o.Path)
	cmd.Flags().IntVar(&o.Max, "max", 0, "hold at most `N` descriptors (default: what RLIMIT_NOFILE allows, up to 10000)")
	cmd.Flags().IntVar(&o.Quota, "quota", 0, "of one user at most `N` (default: as many as --max)")
	cmd.Flags().StringVar(&mode, "mode", "", "`MODE` of the socket (default 600, with --allow 666)")
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "give rights to others: `WHO=RIGHTS[:REGEXP]`; may be repeated")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log to stderr what is asked for")
	return cmd
}

// socketFlag adds --socket.
func socketFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "socket", "s", holder.DefaultPath(),
		"`PATH` of the holder's socket, $FDPASS_HOLDER")
}

// timeoutFlag adds --timeout.
func timeoutFlag(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVarP(timeout, "timeout", "t", 10*time.Second, "give up after this `TIME`; 0 is never")
}

// withTimeout returns a context that ends after the timeout, if it is not 0.
func withTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// withHolder calls f with a connection to the holder.
func withHolder(cmd *cobra.Command, path string, timeout time.Duration, f func(*holder.Client) error) error {
	ctx, cancel := withTimeout(cmd.Context(), timeout)
	defer cancel()
	c, err := holder.Dial(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// printable returns a name as it is, or quoted if a terminal would not show it so.
func printable(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` || strings.ContainsAny(name, " ") {
		return quoted
	}
	return name
}
