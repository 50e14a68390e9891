//go:build unix

package main

import (
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
	"github.com/fdkit/fdkit/scm"
)

func init() { commands = append(commands, newSend) }

// sendFlags are what send sends, and where.
type sendFlags struct {
	endpoint
	data, dataFile string
	split          bool
	nonblock       bool
}

func newSend() *cobra.Command {
	var f sendFlags
	c := &cobra.Command{
		Use:     "send (--connect PATH | --listen PATH | --fd N) [WHAT…]",
		GroupID: "pass",
		Short:   "Send descriptors to another process",
		Long: `Send passes open files to another process in one message, and ends. Each WHAT is

  N           the descriptor N, which fdpass inherits: the shell opens it, as in 5</etc/hosts
  file:PATH   the file or folder PATH, opened for reading
  ADDRESS     a socket that fdpass opens there and that listens, if it is of a kind that does:
              tcp://HOST:PORT, udp://HOST:PORT, unix:PATH, unixpacket:PATH, unixgram:PATH

The other end has the same open file then: it shares offset and modes, and no permission is asked
again. Sockets are opened in blocking mode, unless --nonblock is given. Send returns when the kernel has the message, which may be before anybody has received it.

Without data the message is one NUL byte, since a stream carries no descriptor without a byte.
More than 253 descriptors do not fit into a message. With --split they go in several; the data is
spread over them so that it is whole when it is put together.

--peer-uid and the like ask the kernel who listens at PATH, or who has connected: whoever called
listen(2) there last. Of a datagram socket, and of the other end of a pair, it does not know; then
let the receiver check. Over --fd the message carries the credentials of fdpass for that.`,
		Example: `  fdpass send --connect /run/x.sock 5 5</etc/shadow      as root, to somebody who may not open it
  fdpass send --connect /run/x.sock --data hosts file:/etc/hosts
  fdpass send --connect /run/x.sock tcp://0.0.0.0:443      as root, to a server that is not
  fdpass send --listen /run/x.sock --peer-uid 33 --timeout 10s 0 1 2
  fdpass send --fd 3 --data-file config.json             over a pair that the parent made`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
		ValidArgsFunction: func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
			if strings.HasPrefix(begun, "file:") {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return []string{"0", "1", "2", "3", "file:\ta file, opened for reading", "tcp://\ta listening socket", "udp://", "unix:"}, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		},
	}
	f.add(c)
	c.Flags().StringVar(&f.data, "data", "", "send `TEXT` with them")
	c.Flags().StringVar(&f.dataFile, "data-file", "", "send what is in `FILE`, - for standard input, with them")
	c.Flags().BoolVar(&f.split, "split", false, "more than 253 descriptors in several messages")
	c.Flags().BoolVar(&f.nonblock, "nonblock", false, "open sockets in nonblocking mode, which most programs do not expect")
	_ = c.RegisterFlagCompletionFunc("data", cobra.NoFileCompletions)
	return c
}

func (f *sendFlags) check(c *cobra.Command, args []string) error {
	if err := f.checkFlags(c); err != nil {
		return err
	}
	withData := c.Flags().Changed("data")
	switch {
	case withData && f.dataFile != "":
		return usagef("--data and --data-file: one of them")
	case withData && f.data == "":
		return usagef("--data: a message has at least one byte")
	case len(args) == 0 && !withData && f.dataFile == "":
		return usagef("nothing to send: name descriptors, or say --data: see fdpass send --help")
	case len(args) > scm.MaxFDs && !f.split:
		return usagef("%d descriptors: one message carries %d; --split sends several", len(args), scm.MaxFDs)
	case f.style == "datagram" && f.listen != "":
		return usagef("over datagrams the receiver listens: send with --connect")
	case f.style == "datagram" && f.peer.given():
		return usagef("who is behind a datagram socket cannot be known before sending: let the receiver check, or use another --style")
	case f.byNumber() && f.peer.given():
		return usagef("who has the other end of an inherited socket cannot be known before sending: let the receiver check")
	}
	return nil
}

func (f *sendFlags) run(c *cobra.Command, args []string) error {
	if err := f.check(c, args); err != nil {
		return err
	}
	ctx, stop := untilDone(c.Context(), "send", f.timeout)
	defer stop()
	var o opened
	defer o.close()
	if err := o.open(args, f.nonblock); err != nil {
		return err
	}
	err := f.send(ctx, c, o.files)
	if err != nil {
		o.remove()
	}
	return err
}

func (f *sendFlags) send(ctx context.Context, c *cobra.Command, files []syscall.Conn) error {
	data := []byte(f.data)
	if f.dataFile != "" {
		var err error
		if data, err = readFile(ctx, f.dataFile, c.InOrStdin()); err != nil {
			return err
		}
		if len(data) == 0 {
			return errors.Errorf("%s is empty, and a message has at least one byte", f.dataFile)
		}
	}
	messages, err := split(data, files)
	if err != nil {
		return err
	}
	ch, err := f.open(ctx, c.ErrOrStderr())
	if err != nil {
		return err
	}
	defer ch.close()
	if f.byNumber() {
		defer stamp(ch.Conn)()
	}
	for _, m := range messages {
		if err := ch.send(m.data, m.files...); err != nil {
			return sendError(err)
		}
	}
	return nil
}

// sendError adds what to do.
func sendError(err error) error {
	switch {
	case errors.Is(err, scm.ErrTooLong):
		return errors.WithMessage(err, "send the file itself, as file:PATH, instead of its content")
	case errors.Is(err, scm.ErrPeerGone):
		return errors.WithMessage(err, "nobody receives")
	}
	return err
}

// A message is one of those that send sends.
type message struct {
	data  []byte
	files []syscall.Conn
}

// split makes messages of at most MaxFDs files. All but the last carry one byte of the data.
func split(data []byte, files []syscall.Conn) ([]message, error) {
	n := max(1, (len(files)+scm.MaxFDs-1)/scm.MaxFDs)
	if len(data) == 0 {
		data = make([]byte, n)
	}
	if len(data) < n {
		return nil, errors.Errorf("%d bytes of data for %d messages: each has at least one", len(data), n)
	}
	messages := make([]message, n)
	for i := range messages {
		m := &messages[i]
		m.data, m.files = data[i:i+1], files[i*scm.MaxFDs:min((i+1)*scm.MaxFDs, len(files))]
	}
	messages[n-1].data = data[n-1:]
	return messages, nil
}

// opened are the files to send, and which of them fdpass has opened itself.
type opened struct {
	files   []syscall.Conn
	own     []*os.File
	sockets []*address.Socket
}

func (o *opened) open(args []string, nonblock bool) error {
	for _, arg := range args {
		f, err := o.openOne(arg, nonblock)
		if err != nil {
			o.remove()
			return err
		}
		o.files = append(o.files, f)
	}
	return nil
}

var addressed = regexp.MustCompile(`^(tcp|udp)[46]?://|^unix(packet|gram)?:`)

func (o *opened) openOne(arg string, nonblock bool) (syscall.Conn, error) {
	if path, ok := strings.CutPrefix(arg, "file:"); ok {
		f, err := openFile(path)
		if err == nil {
			o.own = append(o.own, f)
		}
		return f, err
	}
	if !addressed.MatchString(arg) {
		return parseNumber(arg)
	}
	a, err := address.Parse(arg)
	if err != nil {
		return nil, usagef("%w", err)
	}
	s, err := a.Open(address.Options{Nonblock: nonblock})
	if err != nil {
		return nil, err
	}
	o.sockets = append(o.sockets, s)
	return number(s.FD), nil
}

// close closes what fdpass has opened; the receiver has it by now, or nobody.
func (o *opened) close() {
	for _, f := range o.own {
		_ = f.Close()
	}
	for _, s := range o.sockets {
		s.Close()
	}
}

// remove takes paths away that nobody will serve.
func (o *opened) remove() {
	for _, s := range o.sockets {
		_ = s.Remove()
	}
}

// openFile opens a file or folder for reading, in blocking mode, which package os does not leave a FIFO in;
// and does not wait for the other end of one.
func openFile(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readFile reads path, or stdin for "-", until ctx is done.
func readFile(ctx context.Context, path string, stdin io.Reader) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		if path == "-" {
			r.data, r.err = io.ReadAll(stdin)
		} else {
			r.data, r.err = os.ReadFile(path)
		}
		done <- r
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
