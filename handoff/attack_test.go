//go:build linux

package handoff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A peer of the same user that breaks the protocol in every way that it can. It is a process of its own: some
// attacks end with its death.

// An attack is what the attacker does on its end of the channel; it ends when it has nothing more to do, with
// the channel closed, or waits until it is let go.
type attack struct {
	do   func(a *attacker)
	want []error // the error matches one of these; none is success
	says string  // and says this
}

// attacker is one side of a handoff, in its process.
type attacker struct {
	*channel
	c *scm.Conn
}

// send sends a frame with as many descriptors as its header says.
func (a *attacker) send(kind frameType, payload []byte, fds ...int) {
	_ = a.c.SendFDs(newFrame(kind, len(fds), payload), fds)
}

// sendLingering sends a frame with a descriptor that it closes at once, so that the last close(2) of it, which waits
// for as long as the attacker lives, is the receiver's.
func (a *attacker) sendLingering(kind frameType, payload []byte) {
	fd, _, err := testutil.Linger()
	if err != nil {
		panic(err)
	}
	a.send(kind, payload, fd)
	_ = unix.Close(fd)
}

// wait is a peer that hangs.
func (*attacker) wait() { time.Sleep(time.Hour) }

// identify proves who it is.
func (a *attacker) identify() {
	s, err := credentials.Exchange(context.Background(), a.c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "attacker:", err)
		os.Exit(1)
	}
	s.Close()
}

// asPredecessor comes as far as hello.
func asPredecessor(then func(a *attacker)) func(a *attacker) {
	return func(a *attacker) {
		a.identify()
		a.send(frameHello, hello("test", 1))
		then(a)
	}
}

// offers offers items with these descriptors, whatever they are, of a kind, and claims count.
func offers(count int, kind Kind, open ...func() int) func(a *attacker) {
	return asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, uint32(count)))
		var payload []byte
		var fds []int
		for i, f := range open {
			payload = (&Item{Name: fmt.Sprint("item ", i), Kind: kind}).append(payload)
			fds = append(fds, f())
		}
		a.send(frameItems, payload, fds...)
		a.send(frameOffered, nil)
		a.skipTo(frameAbort)
	})
}

// What may be behind a descriptor.

func opens(path string, flags int) func() int {
	return func() int { return must(unix.Open(path, flags|unix.O_CLOEXEC, 0)) }
}

func socketOf(domain, style int) func() int {
	return func() int { return must(unix.Socket(domain, style|unix.SOCK_CLOEXEC, 0)) }
}

func shutDown(network, address string) func() int {
	return func() int {
		ln, err := net.Listen(network, address)
		if err != nil {
			panic(err)
		}
		fd := must(sysfd.Ask(ln.(syscall.Conn), sysfd.Dup))
		_ = unix.Shutdown(fd, unix.SHUT_RD)
		return fd
	}
}

func blockingListener() int {
	fd := socketOf(unix.AF_INET, unix.SOCK_STREAM)()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1)); err != nil {
		panic(err)
	}
	return fd
}

var (
	kept = []error{ErrKept}
	hung = []error{ErrPredecessorHung}
	gone = []error{ErrKept, ErrPredecessorGone}
)

// predecessors attack Take.
var predecessors = map[string]attack{
	"says nothing":               {(*attacker).wait, hung, ""},
	"says nothing after hello":   {asPredecessor((*attacker).wait), hung, ""},
	"leaves":                     {func(*attacker) {}, gone, ""},
	"leaves after its identity":  {(*attacker).identify, gone, ""},
	"leaves after hello":         {asPredecessor(func(*attacker) {}), gone, ""},
	"no identity":                {func(a *attacker) { _ = a.c.Send([]byte("fdkit identity 2")); a.wait() }, kept, "fdkit identity 2"},
	"identity with a descriptor": {func(a *attacker) { _ = a.c.SendFDs([]byte("fdkit identity 1"), []int{1}); a.wait() }, kept, "descriptors"},
	"another name":               {func(a *attacker) { a.identify(); a.send(frameHello, hello("mail", 1)); a.wait() }, []error{ErrName}, ""},
	"hello with a descriptor":    {func(a *attacker) { a.identify(); a.send(frameHello, hello("test", 1), 1); a.wait() }, hung, ""},
	"no hello":                   {func(a *attacker) { a.identify(); a.send(frameManifest, nil); a.wait() }, []error{ErrProtocol}, ""},
	"two hellos":                 {asPredecessor(func(a *attacker) { a.send(frameHello, hello("test", 1)); a.wait() }), []error{ErrProtocol}, ""},
	"malformed hello":            {func(a *attacker) { a.identify(); a.send(frameHello, []byte{0, 1, 0, 0, 0, 200, 1}); a.wait() }, []error{ErrProtocol}, ""},
	"too large":                  {asPredecessor(func(a *attacker) { _ = a.c.Send(newFrame(frameState, 0, make([]byte, maxPayload+1))); a.wait() }), []error{ErrProtocol, scm.ErrTruncated}, ""},
	"size is a lie": {asPredecessor(func(a *attacker) {
		_ = a.c.Send([]byte{byte(frameManifest), 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
		a.wait()
	}), []error{ErrProtocol}, ""},
	"more items than there can be": {asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, 0xffffffff))
		a.wait()
	}), []error{ErrProtocol}, ""},
	"fewer items than announced": {offers(2, File, opens("/", unix.O_RDONLY)), []error{ErrProtocol}, "1 items came, 2 were announced"},
	"more items than announced":  {offers(1, File, opens("/", unix.O_RDONLY), opens("/", unix.O_RDONLY)), []error{ErrProtocol}, "more than the 1 items"},
	"two manifests": {asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, 0))
		a.send(frameManifest, appendUint32(nil, tagCount, 0))
		a.wait()
	}), []error{ErrProtocol}, ""},
	"items before the manifest":   {asPredecessor(func(a *attacker) { a.send(frameItems, (&Item{Name: "x", Kind: File}).append(nil), 1); a.wait() }), []error{ErrProtocol}, ""},
	"offered before the manifest": {asPredecessor(func(a *attacker) { a.send(frameOffered, nil); a.wait() }), []error{ErrProtocol}, ""},
	"commit before the offer":     {asPredecessor(func(a *attacker) { a.send(frameCommit, nil); a.wait() }), hung, ""},
	"state before the offer":      {asPredecessor(func(a *attacker) { a.send(frameState, appendBytes(nil, tagData, []byte("x"))); a.wait() }), []error{ErrProtocol}, ""},
	"an item without its descriptor": {asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, 1))
		a.send(frameItems, (&Item{Name: "x", Kind: File}).append(nil))
		a.wait()
	}), []error{ErrProtocol}, "has no descriptor"},
	"a descriptor without its item": {asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, 1))
		a.send(frameItems, (&Item{Name: "x", Kind: File}).append(nil), 1, 1)
		a.wait()
	}), []error{ErrProtocol}, "2 descriptors for 1 items"},
	"fewer descriptors than it says": {asPredecessor(func(a *attacker) { _ = a.c.SendFDs(newFrame(frameItems, 2, nil), []int{1}); a.wait() }), []error{ErrProtocol}, "with 2 descriptors came with others"},
	"no descriptors, says two":       {asPredecessor(func(a *attacker) { _ = a.c.SendFDs(newFrame(frameItems, 2, nil), nil); a.wait() }), []error{ErrProtocol}, ""},
	"descriptors, says none":         {asPredecessor(func(a *attacker) { _ = a.c.SendFDs(newFrame(frameManifest, 0, nil), []int{1, 1, 1}); a.wait() }), []error{ErrProtocol}, ""},
	"two of one name": {asPredecessor(func(a *attacker) {
		it := Item{Name: "x", Kind: File}
		a.send(frameManifest, appendUint32(nil, tagCount, 2))
		a.send(frameItems, it.append(it.append(nil)), 1, 1)
		a.send(frameOffered, nil)
		a.wait()
	}), []error{ErrItem}, "two items are called"},
	"no name": {asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, 1))
		a.send(frameItems, (&Item{Kind: File}).append(nil), 1)
		a.wait()
	}), []error{ErrItem}, ""},
	"unknown kind": {offers(1, 77, opens("/", unix.O_RDONLY)), []error{ErrItem}, "unknown kind"},

	"an O_PATH as a listener":            {offers(1, Listener, opens("/", unix.O_PATH)), []error{ErrItem}, ""},
	"a folder as a listener":             {offers(1, Listener, opens("/", unix.O_DIRECTORY)), []error{ErrItem}, ""},
	"a terminal as a packet conn":        {offers(1, PacketConn, opens("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY)), []error{ErrItem}, ""},
	"a UDP socket as a listener":         {offers(1, Listener, socketOf(unix.AF_INET, unix.SOCK_DGRAM)), []error{ErrItem}, ""},
	"a TCP socket as a packet conn":      {offers(1, PacketConn, socketOf(unix.AF_INET, unix.SOCK_STREAM)), []error{ErrItem}, ""},
	"a TCP listener that was shut down":  {offers(1, Listener, shutDown("tcp", "127.0.0.1:0")), []error{ErrItem}, ""},
	"a Unix listener that was shut down": {offers(1, Listener, shutDown("unix", fmt.Sprint("@fdkit-shut-down-", os.Getpid()))), []error{ErrItem}, "shut down"},
	"nothing but the first item":         {asPredecessor(func(a *attacker) { a.send(frameManifest, appendUint32(nil, tagCount, 1)); a.wait() }), hung, ""},
	"items that take long to close": {asPredecessor(func(a *attacker) {
		a.send(frameManifest, appendUint32(nil, tagCount, 1))
		a.sendLingering(frameItems, (&Item{Name: "x", Kind: Connection}).append(nil))
		a.skipTo(frameAck)
		a.send(frameAbort, nil)
		a.wait()
	}), kept, ""},
	"unknown frames with descriptors": {asPredecessor(func(a *attacker) { a.send(200, nil, 1, 1, 1); a.send(0, nil, 1); a.wait() }), hung, ""},
}

// TestAttackTake: each gets a typed error within its deadline, nothing leaks.
func TestAttackTake(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(predecessors)) {
		test := predecessors[name]
		eachStyleOf(t, name, func(t *testing.T, style socketpair.Style) {
			c, letGo := attackBy(t, style, "predecessor", name)
			defer letGo()
			wait := Deadlines{Hello: 200 * time.Millisecond, Offer: 200 * time.Millisecond, Answer: 100 * time.Millisecond}
			if !slices.Equal(test.want, hung) {
				wait = Deadlines{Answer: 100 * time.Millisecond} // it is found out, not waited for
			}
			var to *Takeover
			err := within(t, func() (err error) {
				to, err = Take(t.Context(), c, Wish{Name: "test", Deadlines: wait})
				return err
			})
			if err == nil {
				to.Close()
			}
			judge(t, test, err, ErrKept, ErrPredecessorGone, ErrPredecessorHung)
		})
	}
}

func asSuccessor(then func(a *attacker)) func(a *attacker) {
	return func(a *attacker) {
		a.identify()
		a.send(frameHello, hello("test", 0))
		then(a)
	}
}

// takes comes as far as the commit.
func takes(then func(a *attacker)) func(a *attacker) {
	return asSuccessor(func(a *attacker) {
		for n, kind := 0, frameType(0); kind != frameOffered; {
			f, err := a.read()
			if err != nil {
				return
			}
			if n, kind = n+f.files.Len(), f.kind; kind == frameItems {
				a.send(frameAck, appendUint32(nil, tagCount, uint32(n)))
			}
			f.files.Close()
		}
		a.send(frameAdopted, nil)
		a.send(frameReady, nil)
		a.skipTo(frameCommit)
		then(a)
	})
}

var tookBack = []error{ErrTookBack}

// successors attack Offer.
var successors = map[string]attack{
	"says nothing":                {(*attacker).wait, kept, ""},
	"says nothing after hello":    {asSuccessor((*attacker).wait), kept, ""},
	"leaves":                      {func(*attacker) {}, kept, ""},
	"leaves after its identity":   {(*attacker).identify, kept, ""},
	"leaves after hello":          {asSuccessor(func(*attacker) {}), kept, ""},
	"hello with a descriptor":     {func(a *attacker) { a.identify(); a.send(frameHello, hello("test", 0), 1); a.wait() }, kept, ""},
	"two hellos":                  {asSuccessor(func(a *attacker) { a.send(frameHello, hello("test", 0)); a.wait() }), []error{ErrProtocol}, ""},
	"acknowledges what never was": {asSuccessor(func(a *attacker) { a.send(frameAck, appendUint32(nil, tagCount, 99)); a.wait() }), []error{ErrProtocol}, "99 items acknowledged"},
	"acknowledges nothing":        {asSuccessor(func(a *attacker) { a.send(frameAck, nil); a.wait() }), []error{ErrProtocol}, ""},
	"acknowledges backwards": {asSuccessor(func(a *attacker) {
		a.skipTo(frameItems)
		a.send(frameAck, appendUint32(nil, tagCount, 0xfffffff0))
		a.wait()
	}), []error{ErrProtocol}, ""},
	"does not adopt": {asSuccessor(func(a *attacker) { a.skipTo(frameItems); a.send(frameAck, appendUint32(nil, tagCount, 1)); a.wait() }), kept, ""},
	"does what only the other may": {asSuccessor(func(a *attacker) {
		a.send(frameCommit, nil)
		a.send(frameOffered, nil)
		a.send(frameDone, nil)
		a.send(frameAborted, nil)
		a.wait()
	}), kept, ""},
	"released at once":     {asSuccessor(func(a *attacker) { a.send(frameReleased, nil); a.wait() }), kept, ""},
	"serving at once":      {asSuccessor(func(a *attacker) { a.send(frameServing, nil); a.wait() }), []error{ErrProtocol}, ""},
	"sends the items back": {asSuccessor(func(a *attacker) { a.send(frameItems, (&Item{Name: "x", Kind: File}).append(nil), 1); a.wait() }), kept, ""},
	"a reason without end": {asSuccessor(func(a *attacker) {
		a.send(frameAbort, appendString(nil, tagReason, strings.Repeat("\x1b[2J\n", 9000)))
		a.wait()
	}), kept, ""},
	"size is a lie":                  {asSuccessor(func(a *attacker) { _ = a.c.Send([]byte{byte(frameAck), 0, 0, 0, 0xff, 0xff, 0xff, 0xff}); a.wait() }), []error{ErrProtocol}, ""},
	"descriptors, says none":         {asSuccessor(func(a *attacker) { _ = a.c.SendFDs(newFrame(frameAck, 0, nil), []int{1, 1}); a.wait() }), []error{ErrProtocol}, ""},
	"hangs after the commit":         {takes((*attacker).wait), tookBack, ""},
	"closes after the commit":        {takes(func(a *attacker) { a.c.Close(); a.wait() }), tookBack, ""},
	"dies after the commit":          {takes(func(a *attacker) { os.Exit(0) }), tookBack, ""},
	"serving is malformed":           {takes(func(a *attacker) { a.send(frameServing, []byte{1, 2, 3}); a.wait() }), tookBack, ""},
	"dies, and its heir has its end": {takes(leaveAnHeir), tookBack, ""},
	"what takes long to close":       {asSuccessor(func(a *attacker) { a.sendLingering(200, nil); a.wait() }), kept, ""},
	"dies when it serves":            {takes(func(a *attacker) { a.send(frameServing, nil); os.Exit(0) }), tookBack, ""},
	"floods after the commit": {takes(func(a *attacker) {
		for {
			a.send(200, nil, 1)
		}
	}), tookBack, ""},
}

// leaveAnHeir dies while another process has the channel: its end is not the end of the channel.
func leaveAnHeir(a *attacker) {
	fd := must(sysfd.Ask(a.c, sysfd.Dup))
	cmd := exec.Command("sleep", "30")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "channel")}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
	os.Exit(0)
}

// TestAttackOffer: the predecessor serves, as before or again.
func TestAttackOffer(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(successors)) {
		test := successors[name]
		eachStyleOf(t, name, func(t *testing.T, style socketpair.Style) {
			c, letGo := attackBy(t, style, "successor", name)
			defer letGo()
			wait := Deadlines{MaxPause: 10 * time.Second, Commit: 300 * time.Millisecond, Answer: 100 * time.Millisecond, Probation: time.Hour}
			if slices.Equal(test.want, kept) { // others are found out, or have to come far
				wait.Hello, wait.Offer, wait.Rehearse = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
			}
			ln := tcp(t)
			paused, resumed := false, false
			err := within(t, func() error {
				return Offer(t.Context(), c, Offering{
					Name: "test", Items: []Item{{Name: "http", Kind: Listener, Conn: ln}}, Deadlines: wait,
					Pause:  func(context.Context) (Final, error) { paused = true; return Final{}, nil },
					Resume: func() { resumed = true },
				})
			})
			judge(t, test, err, ErrKept, ErrTookBack)
			if paused != resumed {
				t.Errorf("paused: %v, resumed: %v", paused, resumed)
			}
			if err != nil && len(err.Error()) > 20*maxReason {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			// And the listener is what it was.
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if conn, err = ln.Accept(); err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
	}
}

func eachStyleOf(t *testing.T, name string, test func(t *testing.T, style socketpair.Style)) {
	for _, style := range []socketpair.Style{socketpair.Stream, socketpair.SeqPacket} {
		t.Run(name+"/"+style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			test(t, style)
		})
	}
}

// judge compares how a handoff with an attacker ended with how it had to.
func judge(t *testing.T, test attack, err error, typed ...error) {
	t.Helper()
	is := func(target error) bool { return errors.Is(err, target) }
	if !slices.ContainsFunc(typed, is) {
		t.Errorf("not an error of a handoff: %v", err)
	}
	if !slices.ContainsFunc(test.want, is) || !strings.Contains(err.Error(), test.says) {
		t.Errorf("%v; want one of %v, with %q", err, test.want, test.says)
	}
}

// within fails the test if f takes longer than any of its deadlines could.
func within(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("still not back after 30 s")
		return nil
	}
}

var attackerProcess = testutil.NewHelper("attacker", func(args []string) error {
	table := predecessors
	if args[0] == "successor" {
		table = successors
	}
	c, err := scm.Inherit(3)
	if err != nil {
		return err
	}
	table[args[1]].do(&attacker{newChannel(c), c})
	return nil
})

// attackBy starts the attacker; letGo ends it, and whoever it has left.
func attackBy(t *testing.T, style socketpair.Style, role, name string) (c *scm.Conn, letGo func()) {
	t.Helper()
	ours, theirs, err := socketpair.ForChild(style)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = scm.NewConn(ours); err != nil {
		t.Fatal(err)
	}
	cmd := attackerProcess.Command(t, role, name)
	cmd.ExtraFiles = []*os.File{theirs}
	var out bytes.Buffer
	cmd.Stdout = &out
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		var heir int
		if _, err := fmt.Sscan(out.String(), &heir); err == nil {
			_ = syscall.Kill(heir, syscall.SIGKILL)
		}
	}
}

// A folder, an O_PATH, a terminal, a blocking socket: what is no lie is taken, works as what it is, and is closed.
func TestStrangeItems(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		p, s := pair(t, style)
		open := []func() int{opens("/", unix.O_PATH), opens("/", unix.O_DIRECTORY), opens("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY),
			func() int { return must(unix.MemfdCreate("x", unix.MFD_CLOEXEC)) }}
		var items []Item
		for i, f := range open {
			file := os.NewFile(uintptr(f()), "strange")
			defer file.Close()
			items = append(items, Item{Name: fmt.Sprint(i), Kind: File, Conn: file})
		}
		blocking := os.NewFile(uintptr(blockingListener()), "listener")
		defer blocking.Close()
		items = append(items, Item{Name: "blocking", Kind: Listener, Conn: blocking}, Item{Name: "no connection", Kind: Connection, Conn: blocking})
		done := make(chan error, 1)
		go func() {
			done <- Offer(t.Context(), p, Offering{Name: "test", Items: items, Deadlines: Deadlines{Probation: time.Millisecond, MaxPause: patient}})
		}()
		to, err := Take(t.Context(), s, Wish{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Items[len(open)+1].TakeConn(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a listener as a connection: %v", err)
		}
		ln, err := to.Items[len(open)].TakeListener()
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		// It has deadlines, so it does not block.
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("accept: %v", err)
		}
		if err := to.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		to.Serving()
		if err := errors.Join(to.Wait(t.Context()), <-done, to.Close()); err != nil {
			t.Error(err)
		}
	})
}

// The channel itself cannot be an item: it would never end.
func TestOfferOfTheChannel(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		p, s := pair(t, style)
		done := make(chan error, 1)
		go func() {
			done <- Offer(t.Context(), p, Offering{Name: "test", Items: []Item{{Name: "channel", Kind: Connection, Conn: p}}})
		}()
		if _, err := Take(t.Context(), s, Wish{Name: "test"}); !errors.Is(err, ErrKept) {
			t.Errorf("take: %v", err)
		}
		if err := <-done; !errors.Is(err, ErrKept) || !errors.Is(err, scm.ErrNotSendable) {
			t.Errorf("offer: %v", err)
		}
	})
}

// A predecessor that closes at each byte of what it says, or says it one byte at a time.
func TestTakeCutOff(t *testing.T) {
	testutil.NoLeaks(t)
	said, _ := conversation(recordWhole(t, socketpair.Stream), 'P')
	said = append([]byte("fdkit identity 1"), said...)
	ln := tcp(t)
	results := make(chan error)
	parallel := make(chan struct{}, 32) // each has a pause of its own
	for cut := range said {
		p, s := pair(t, socketpair.Stream)
		go func() {
			defer p.Close()
			stay, err := sysfd.Ask(ln, sysfd.Dup)
			if err != nil {
				return
			}
			defer unix.Close(stay)
			first := true
			for i := range cut {
				fds := []int(nil)
				if i >= 16 && frameType(said[i]) == frameItems && first && isFrameStart(said[16:], i-16) {
					fds, first = []int{stay}, false
				}
				if p.SendFDs(said[i:i+1], fds) != nil {
					break
				}
			}
			if cut%2 == 0 { // the other half resets
				_ = p.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				_, _ = io.Copy(io.Discard, readerOf(p))
			}
		}()
		go func() {
			parallel <- struct{}{}
			defer func() { <-parallel }()
			to, err := Take(t.Context(), s, Wish{Name: "web", Deadlines: Deadlines{Answer: 50 * time.Millisecond, Commit: 50 * time.Millisecond}})
			if err == nil {
				err = to.Ready(t.Context())
				if err == nil {
					to.Serving()
					_ = to.Wait(t.Context())
				}
				to.Close()
				final, _ := to.Final()
				for _, it := range final.Items {
					it.Close()
				}
			}
			results <- err
		}()
	}
	timeout := time.After(5 * time.Minute)
	for range said {
		select {
		case err := <-results:
			if err != nil && !errors.Is(err, ErrKept) && !errors.Is(err, ErrPredecessorGone) && !errors.Is(err, ErrPredecessorHung) {
				t.Errorf("not an error of a handoff: %v", err)
			}
		case <-timeout:
			t.Fatal("not all are back after five minutes")
		}
	}
}

// isFrameStart reports whether a frame begins at i of a conversation.
func isFrameStart(said []byte, i int) bool {
	at := 0
	for _, f := range frames(said) {
		if at == i {
			return true
		}
		at += len(f)
	}
	return false
}

type connReader struct{ c *scm.Conn }

func readerOf(c *scm.Conn) io.Reader { return connReader{c} }

func (r connReader) Read(p []byte) (int, error) {
	m, err := r.c.Receive(p, scm.MaxFDs)
	_ = m.Close()
	return len(m.Data), err
}

// A service goes on through all of it: attackers come at its socket, each in its way, and the service answers its
// clients and hands over.
func TestServiceUnderAttack(t *testing.T) {
	t.Parallel()
	c := config(t)
	attacked := c
	attacked.Deadlines = Deadlines{Hello: 2 * time.Second, Offer: 2 * time.Second, Rehearse: 2 * time.Second,
		Commit: 2 * time.Second, Answer: 100 * time.Millisecond, Probation: 50 * time.Millisecond, MaxPause: patient}
	first := launch(t, attacked)
	ready := first.await("ready")
	before := openCount(t, ready.PID)
	for _, name := range slices.Sorted(maps.Keys(successors)) {
		if strings.Contains(name, "heir") {
			continue // who leaves another process, which this test would have to find
		}
		cmd := attackerAtPath.Command(t, c.Socket, name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := first.await(string(EventKept), string(EventTookBack))
		if !strings.Contains(end.Error, ": ") || end.Error == ErrKept.Error() || end.Error == ErrTookBack.Error() {
			t.Errorf("%s: no reason: %q", name, end.Error)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		mustServe(t, c, ready.Addr, ready.PID)
	}
	testutil.Eventually(t, "the service has closed everything", func() bool { return openCount(t, ready.PID) <= before })
	_, next := launchUntilReady(t, c, refusedAsSecond, "took too long") // of the short deadlines
	mustServe(t, c, ready.Addr, next.PID)
	_ = syscall.Kill(next.PID, syscall.SIGTERM)
}

var attackerAtPath = testutil.NewHelper("attacker-at-path", func(args []string) error {
	conn, err := net.Dial("unixpacket", args[0])
	if err != nil {
		return err
	}
	c, err := scm.NewConn(conn.(*net.UnixConn))
	if err != nil {
		return err
	}
	a := &attacker{newChannel(c), c}
	successors[args[1]].do(a)
	return nil
})

func openCount(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Over a pair too, nothing is offered to, or taken from, whom the policy does not name.
func TestPolicyOfPair(t *testing.T) {
	nobody := credentials.UID(4299)
	for name, o := range map[string]struct{ offer, take *credentials.Policy }{"the successor": {&nobody, nil}, "the predecessor": {nil, &nobody}} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			p, s := pair(t, socketpair.SeqPacket)
			done := make(chan error, 1)
			go func() {
				done <- Offer(t.Context(), p, Offering{Name: "web", Policy: o.offer, Deadlines: Deadlines{Hello: time.Second}})
			}()
			to, err := Take(t.Context(), s, Wish{Name: "web", Policy: o.take, Deadlines: Deadlines{Answer: time.Second}})
			if err == nil {
				to.Abort(errors.New("no"))
				t.Error("taken")
			}
			if perr := <-done; !errors.Is(perr, ErrKept) || !strings.Contains(err.Error()+perr.Error(), "uid 4299") {
				t.Errorf("%v; %v", perr, err)
			}
		})
	}
}
