package supervise

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
)

// The control socket is a stream: the client writes one Request as JSON and reads one Answer. A service
// obeys the same user and root, and a client believes those.

// A Request is one command.
type Request struct {
	Do string `json:"do"` // restart, replace or status
}

// An Answer is what became of it.
type Answer struct {
	Error   string  `json:"error,omitempty"`
	Status  *Status `json:"status,omitempty"`
	Version string  `json:"version,omitempty"` // of the replacement
}

// most is more than any request has, mostOfAnswer than any answer.
const (
	most         = 4096
	mostOfAnswer = 4 << 20
)

var whom = credentials.AnyOf(credentials.SameUser(), credentials.Root())

var serviceName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// CheckName says whether a service may be called so.
func CheckName(name string) error {
	if !serviceName.MatchString(name) || len(name) > 64 {
		return errors.Errorf("%q is no name for a service: up to 64 letters, digits, and _ . - only", name)
	}
	return nil
}

const suffix = ".sock"

// folders are where control sockets may be, best first. Those of root do not depend on whether it logged
// in.
func folders() (dirs []string) {
	if os.Geteuid() == 0 {
		return []string{"/run/fdpass"}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "fdpass"))
	}
	return append(dirs, filepath.Join("/run/user", strconv.Itoa(os.Geteuid()), "fdpass"))
}

// abstract is the beginning of the names for users without such a folder, as in a container.
func abstract() string { return fmt.Sprintf("@fdpass/%d/", os.Geteuid()) }

// Addresses are where the control socket of a service may be, best first.
func Addresses(name string) (all []string) {
	for _, dir := range folders() {
		all = append(all, filepath.Join(dir, name+suffix))
	}
	return append(all, abstract()+name)
}

// running lists the control sockets that are there, by name. Some may be dead.
func running() map[string]string {
	found := map[string]string{}
	names, err := os.ReadFile("/proc/net/unix")
	if err == nil {
		for _, line := range strings.Split(string(names), "\n") {
			if _, name, ok := strings.Cut(line, " "+abstract()); ok && serviceName.MatchString(name) {
				found[name] = abstract() + name
			}
		}
	}
	for _, dir := range slices.Backward(folders()) {
		paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
		if err != nil {
			continue
		}
		for _, path := range paths {
			found[strings.TrimSuffix(filepath.Base(path), suffix)] = path
		}
	}
	return found
}

// Dial connects to the control socket at address, or to that of the named service, or if both are empty
// to that of the only service there is. It gives the connection to the caller.
func Dial(ctx context.Context, address, name string) (net.Conn, error) {
	if address != "" {
		return dial(ctx, address, os.Geteuid() == 0)
	}
	found := running()
	if name != "" {
		where, ok := found[name]
		if !ok {
			return nil, errors.Errorf("no service is called %q here: fdpass serve --name, or --control PATH if it has one", name)
		}
		return dial(ctx, where, false)
	}
	var only net.Conn
	var names []string
	for _, name := range slices.Sorted(maps.Keys(found)) {
		c, err := dial(ctx, found[name], false)
		if err != nil {
			continue // one that was killed left it, or a stranger has taken the name
		}
		if names = append(names, name); only == nil {
			only = c
		} else {
			_ = c.Close()
		}
	}
	if len(names) == 1 {
		return only, nil
	}
	if only != nil {
		_ = only.Close()
		return nil, errors.Errorf("which one? %s", strings.Join(names, ", "))
	}
	return nil, errors.New("no fdpass serve runs here, or not as this user; --control PATH if it has one of its own")
}

// Services returns the names of services that seem to run here, for completions.
func Services() []string { return slices.Sorted(maps.Keys(running())) }

// dial connects to address. What listens there decides what we tell the caller: not a stranger, unless
// anybody's was asked for, which root may by a path.
func dial(ctx context.Context, address string, anybody bool) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
			return nil, errors.WithMessage(err, "it does not run")
		}
		return nil, err
	}
	if err := whom.Check(c.(*net.UnixConn)); err != nil && !anybody {
		_ = c.Close()
		return nil, errors.WithMessage(err, address)
	}
	return c, nil
}

var errNoAnswer = errors.New("it ended, or was replaced, before it answered")

// DialAndAsk connects as Dial does, and asks. A service that was replaced before it answered has not begun: it is not
// replaced while something starts. So what goes on in the same process is asked again.
func DialAndAsk(ctx context.Context, address, name string, r Request) (*Answer, error) {
	before, noAnswer := 0, error(nil)
	for range mostReplacements {
		c, err := Dial(ctx, address, name)
		if noAnswer != nil && err != nil {
			break
		}
		if err != nil {
			return nil, err
		}
		peer, err := credentials.Peer(c.(*net.UnixConn))
		if noAnswer != nil && (err != nil || peer.PID != before) {
			_ = c.Close()
			break // another one
		}
		a, err := Ask(ctx, c, r)
		_ = c.Close()
		if !errors.Is(err, errNoAnswer) {
			return a, err
		}
		before, noAnswer = peer.PID, err
	}
	return nil, noAnswer
}

// mostReplacements is how often a service may be replaced while it is asked one thing.
const mostReplacements = 20

// Ask sends a request over c, which it borrows, and waits for the answer or ctx. An answer that is an
// error is one. Its texts can be shown on a terminal: root asks services of users that it does not trust.
func Ask(ctx context.Context, c net.Conn, r Request) (*Answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := json.NewEncoder(c).Encode(r)
	var a Answer
	limited := &io.LimitedReader{R: c, N: mostOfAnswer}
	if err == nil {
		err = json.NewDecoder(limited).Decode(&a)
	}
	a.clean()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return nil, errNoAnswer
	case err != nil && limited.N == 0:
		return nil, errors.Errorf("its answer is longer than %d bytes", mostOfAnswer)
	case err != nil:
		return nil, errors.WithMessage(err, "its answer")
	case a.Error != "":
		return nil, errors.New(a.Error)
	case r.Do == "status" && a.Status == nil:
		return nil, errors.New("its answer has no status")
	}
	return &a, nil
}

// clean makes texts for a terminal of all that the other side says.
func (a *Answer) clean() {
	texts := []*string{&a.Error, &a.Version}
	if s := a.Status; s != nil {
		texts = append(texts, &s.Name, &s.Version)
		for i := range s.Sockets {
			k := &s.Sockets[i]
			texts = append(texts, &k.Name, &k.Address, &k.Bound)
		}
		for i := range s.Generations {
			g := &s.Generations[i]
			texts = append(texts, (*string)(&g.State), &g.Says, &g.Failure)
		}
	}
	for _, text := range texts {
		*text = printable(*text)
	}
}

// printable is one line for a terminal, from a program that we do not trust with it.
func printable(s string) string {
	return strings.Map(func(r rune) rune { // which makes valid UTF-8 of it

		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
