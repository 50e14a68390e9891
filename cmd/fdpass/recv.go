//go:build unix

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func init() { commands = append(commands, newRecv) }

// maxMessage is more than a packet can be, and as much of a stream as is told at once.
const maxMessage = 8 << 20

// recvFlags are where recv receives, and what becomes of it.
type recvFlags struct {
	endpoint
	dataFile string
	asJSON   bool
	count    int
	limit    int

	as    string
	names string
	noPID bool
}

func newRecv() *cobra.Command {
	var f recvFlags
	c := &cobra.Command{
		Use:     "recv (--connect PATH | --listen PATH | --fd N) [-- COMMAND [ARGUMENT…]]",
		GroupID: "pass",
		Short:   "Receive descriptors from another process",
		Long: `Recv receives messages until the other end closes, and says what came with each: its data and
its descriptors, as fdpass inspect does. A datagram socket has no end; there it receives one message.
A stream has no messages; there one is what has arrived, up to the next descriptors.

With COMMAND it prints nothing, and becomes COMMAND in place when all has come, which inherits the
descriptors in the way of --as, from number 3 for most, and no others beside 0, 1 and 2. Their
blocking mode stays as it is: the sender has the same open files.

--peer-uid and the like ask the kernel who listens at PATH or has connected; over --fd and over
datagrams, who wrote each message. One that was written before recv was there carries no
credentials and is refused, unless the sender attached them, as fdpass send does.`,
		Example: `  fdpass recv --listen /run/x.sock
  fdpass recv --listen /run/x.sock --peer-uid 0 --timeout 10s --json
  fdpass recv --connect /run/x.sock --count 1            from a daemon that keeps the connection
  fdpass recv --fd 3 --data-file config.json             over a pair that the parent made
  fdpass recv --listen /run/x.sock --fdname http:admin -- ./server`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	f.add(c)
	c.Flags().StringVar(&f.dataFile, "data-file", "", "write the data into `FILE`, - for standard output, and print nothing else")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print a JSON object for each message")
	c.Flags().IntVar(&f.count, "count", 0, "receive `N` messages and do not wait for the end (default 1 from a datagram socket)")
	c.Flags().StringVar(&f.as, "as", inherit.Ways[0].Name, "the `WAY` in which COMMAND inherits them: "+strings.Join(inherit.Names(), ", "))
	c.Flags().StringVar(&f.names, "fdname", "", "what COMMAND knows them by, `NAMES` with colons between (LISTEN_FDNAMES)")
	c.Flags().BoolVar(&f.noPID, "no-pid", false, "leave LISTEN_PID out, for a command that forks before the program reads it")
	c.Flags().SetInterspersed(false) // the flags of COMMAND are its own
	c.Flags().IntVar(&f.limit, "limit", 1024, "receive at most `N` descriptors in all")
	_ = c.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(inherit.Names(), cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("fdname", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("count", cobra.NoFileCompletions)
	_ = c.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions)
	return c
}

func (f *recvFlags) check(c *cobra.Command, args []string) error {
	if err := f.checkFlags(c); err != nil {
		return err
	}
	switch _, err := inherit.Find(f.as); {
	case err != nil:
		return usagef("%w", err)
	case f.style == "datagram" && f.connect != "":
		return usagef("over datagrams the receiver listens: recv with --listen")
	case f.count < 0 || f.limit < 0:
		return usagef("--count and --limit cannot be negative")
	case f.dataFile == "-" && (f.asJSON || len(args) > 0):
		return usagef("--data-file -: standard output is for the data alone")
	case f.asJSON && len(args) > 0:
		return usagef("--json: recv prints nothing when it becomes a command; that may be fdpass inspect --json")
	case f.names != "" && len(args) == 0:
		return usagef("--fdname is for a command, behind --")
	}
	return nil
}

func (f *recvFlags) run(c *cobra.Command, args []string) error {
	if err := f.check(c, args); err != nil {
		return err
	}
	p := inherit.Program{Way: f.as, NoPID: f.noPID, Generation: 1, Args: args}
	if len(args) > 0 {
		var err error
		if p.Path, err = inherit.Look(args[0], ""); err != nil {
			return cannotRun(err)
		}
	}
	ctx, stop := untilDone(c.Context(), "recv", f.timeout)
	defer stop()
	each, closeOut, err := f.output(c.OutOrStdout(), len(args) == 0)
	if err != nil {
		return err
	}
	var fds []int
	err = f.receive(ctx, c.ErrOrStderr(), func(m *scm.Message) error {
		if err := each(m); err != nil || len(args) == 0 {
			return err
		}
		for i := range m.Files.Len() {
			fds = append(fds, m.Files.TakeFD(i))
		}
		return nil
	})
	if cerr := closeOut(); err == nil {
		err = cerr
	}
	if err != nil || len(args) == 0 {
		return err // the program ends, and with it what it has received
	}
	return f.become(&p, fds)
}

// become becomes the program that inherits fds.
func (f *recvFlags) become(p *inherit.Program, fds []int) error {
	if len(fds) == 0 {
		return errors.New("no descriptor came, and COMMAND is to inherit some")
	}
	way, err := inherit.Find(f.as)
	if err == nil {
		err = way.Check(len(fds))
	}
	if err != nil {
		return err
	}
	var names []string
	if f.names != "" {
		names = strings.Split(f.names, ":")
	}
	if len(names) > len(fds) {
		return errors.Errorf("--fdname has %d names, and %d descriptors came", len(names), len(fds))
	}
	for i, fd := range fds {
		s := inherit.Socket{FD: fd}
		if i < len(names) {
			s.Name = names[i]
		}
		if info, err := scm.Inspect(number(fd)); err == nil && info.Socket != nil {
			s.Bound = addressText(info.Socket.Local)
			s.Written, s.Local = s.Bound, strings.HasPrefix(s.Bound, "/")
		}
		p.Sockets = append(p.Sockets, s)
	}
	return cannotRun(p.Hand(os.Environ()))
}

// output returns what is done with each message: to tell it, or to write its data into a file. What the file had
// stays until a message comes.
func (f *recvFlags) output(stdout io.Writer, tell bool) (each func(*scm.Message) error, closeIt func() error, err error) {
	nothing := func() error { return nil }
	write := func(m *scm.Message) error { return writeMessage(stdout, m, f.asJSON) }
	switch {
	case f.dataFile == "" && !tell:
		return func(*scm.Message) error { return nil }, nothing, nil
	case f.dataFile == "":
		return write, nothing, nil
	case f.dataFile == "-":
		return func(m *scm.Message) error { _, err := stdout.Write(m.Data); return err }, nothing, nil
	}
	file, err := os.OpenFile(f.dataFile, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return nil, nil, err
	}
	empty := sync.OnceValue(func() error {
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			return err // a pipe or a terminal keeps nothing
		}
		return file.Truncate(0)
	})
	return func(m *scm.Message) error {
		if err := empty(); err != nil {
			return err
		}
		if _, err := file.Write(m.Data); err != nil || !f.asJSON {
			return err
		}
		return write(m)
	}, file.Close, nil
}

// receive calls each for the messages, and closes them.
func (f *recvFlags) receive(ctx context.Context, stderr io.Writer, each func(*scm.Message) error) error {
	ch, err := f.open(ctx, stderr)
	if err != nil {
		return err
	}
	defer ch.close()
	count, byMessage := f.count, false
	if ch.Style() == socketpair.Datagram || f.byNumber() {
		byMessage = f.peer.given()
	}
	if count == 0 && ch.Style() == socketpair.Datagram {
		count = 1
	}
	if byMessage && f.byNumber() {
		defer stamp(ch.Conn)()
	}
	buffer := make([]byte, maxMessage)
	files := 0
	for n := 0; count == 0 || n < count; {
		m, err := ch.receive(buffer, f.limit-files)
		switch {
		case err == io.EOF && n > 0 && count == 0:
			return nil
		case err == io.EOF && count > 1:
			return errors.Errorf("the other end closed after %d of %d messages", n, count)
		case err == io.EOF:
			return errors.New("the other end closed without a message")
		case errors.Is(err, scm.ErrTooManyFiles):
			return errors.WithMessagef(err, "--limit is %d", f.limit)
		case err != nil:
			return err
		}
		if byMessage {
			if err := f.peer.checkSender(m.Sender); err != nil {
				discard(&m)
				if f.byNumber() {
					return err
				}
				fmt.Fprintf(stderr, "fdpass: %v\n", err) // anybody may send a datagram: wait for another one
				continue
			}
		}
		n++
		files += m.Files.Len()
		err = each(&m)
		discard(&m)
		if err != nil {
			return err
		}
	}
	return nil
}

// discard closes what nobody took. The sender decides how long close(2) takes, with SO_LINGER: it goes on in
// the background then, or ends with the program.
func discard(m *scm.Message) {
	fds := make([]int, m.Files.Len())
	for i := range fds {
		fds[i] = m.Files.TakeFD(i)
	}
	sysfd.Discard(fds)
	_ = m.Close()
}

// messageJSON is a message, in JSON.
type messageJSON struct {
	Data        *string      `json:"data,omitempty"`        // if it is text
	DataBase64  *string      `json:"data_base64,omitempty"` // if not
	From        *senderJSON  `json:"from,omitempty"`        // who wrote it, if that was asked for
	Descriptors []descriptor `json:"descriptors"`
}

type senderJSON struct {
	PID int    `json:"pid"`
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

func writeMessage(w io.Writer, m *scm.Message, asJSON bool) error {
	all := make([]descriptor, 0, m.Files.Len())
	for i := range m.Files.Len() {
		d, err := descriptorOf(m.Files.Lend(i), i)
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	if asJSON {
		return writeJSON(w, messageOf(m, all))
	}
	fmt.Fprintf(w, "data  %s\n", dataText(m.Data))
	if m.Sender != nil {
		fmt.Fprintf(w, "from  %v\n", m.Sender.Cred)
	}
	if len(all) == 0 {
		return nil
	}
	return writeTable(w, "#", all)
}

func messageOf(m *scm.Message, all []descriptor) messageJSON {
	j := messageJSON{Descriptors: all}
	if utf8.Valid(m.Data) {
		text := string(m.Data)
		j.Data = &text
	} else {
		text := base64.StdEncoding.EncodeToString(m.Data)
		j.DataBase64 = &text
	}
	if m.Sender != nil {
		j.From = &senderJSON{m.Sender.PID, m.Sender.UID, m.Sender.GID}
	}
	return j
}

// dataText is data for a terminal, which must not take it for more than text.
func dataText(data []byte) string {
	const most = 200
	if len(data) > most {
		return fmt.Sprintf("%q… (%d bytes)", data[:most], len(data))
	}
	return fmt.Sprintf("%q", data)
}
