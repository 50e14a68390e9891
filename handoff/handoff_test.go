//go:build linux

package handoff

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // parallel tests mostly wait for a deadline
	// Helpers too. A test in which one of these passes has its own.
	defaults.Hello, defaults.MaxPause, defaults.Commit, defaults.Answer = patient, patient, patient, patient
	testutil.Main(m)
}

func pair(t testing.TB, style socketpair.Style) (p, s *scm.Conn) {
	t.Helper()
	p, s, err := scm.Pair(style)
	if err != nil {
		t.Fatal(err)
	}
	return p, s
}

func eachStyle(t *testing.T, test func(t *testing.T, style socketpair.Style)) {
	for _, style := range []socketpair.Style{socketpair.Stream, socketpair.SeqPacket} {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			test(t, style)
		})
	}
}

func tcp(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// patient is how long tests wait for what has to happen: on a loaded machine two processes that get no CPU exceed the
// default pause of 100 ms, and may come near the others.
const patient = 20 * time.Second

func TestHandoff(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		ctx := t.Context()
		p, s := pair(t, style)
		ln := tcp(t)
		done := make(chan error, 1)
		state := make([]byte, 200_000)
		state[199_999] = 7
		go func() {
			done <- Offer(ctx, p, Offering{
				Name: "web", Generation: 3,
				Items: []Item{{Name: "http", Kind: Listener, Conn: ln, Backlog: 12, Meta: []byte("meta")}},
				Pause: func(context.Context) (Final, error) {
					return Final{State: state, Items: []Item{{Name: "late", Kind: Listener, Conn: ln, Unread: []byte("unread")}}}, nil
				},
				Resume: func() {
					t.Error("resumed")
				},
				Deadlines: Deadlines{Probation: time.Millisecond, MaxPause: patient},
			})
		}()
		to, err := Take(ctx, s, Wish{Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if len(to.Items) != 1 || to.Items[0].Name != "http" || to.Items[0].Backlog != 12 || string(to.Items[0].Meta) != "meta" || to.Generation != 3 {
			t.Errorf("%+v", to)
		}
		got, err := to.Items[0].TakeListener()
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if got.Addr().String() != ln.Addr().String() {
			t.Error("another listener")
		}
		if err := to.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		final, err := to.Final()
		if err != nil {
			t.Error(err)
		}
		late := final.Items
		if len(late) != 1 || late[0].Name != "late" || string(late[0].Unread) != "unread" {
			t.Errorf("late items: %+v", late)
		} else if again, err := late[0].TakeListener(); err != nil || again.Addr().String() != ln.Addr().String() {
			t.Errorf("the late item: %v", err)
		} else {
			again.Close()
		}
		if b := final.State; len(b) != len(state) || b[199_999] != 7 {
			t.Errorf("%d bytes of state", len(b))
		}
		to.Serving()
		if err := to.Wait(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Established connections move in as many messages as it takes, each with what its owner says of it and has read
// of it, and both sides are told of each message.
func TestHandoffOfMany(t *testing.T) {
	const many = 10_000
	testutil.NeedFiles(t, many+100)
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		ctx := t.Context()
		p, s := pair(t, style)
		a, b := tcpPair(t)
		defer a.Close()
		defer b.Close()
		items := make([]Item, many)
		for i := range items {
			items[i] = Item{Name: "web", Kind: Connection, Conn: a, Meta: fmt.Append(nil, i), Unread: fmt.Append(nil, "GET /", i)}
		}
		var offered, taken []int
		told := func(list *[]int) func(n, total int) {
			return func(n, total int) {
				if total != many {
					t.Errorf("%d of %d", n, total)
				}
				*list = append(*list, n)
			}
		}
		done := make(chan error, 1)
		go func() {
			done <- Offer(ctx, p, Offering{Name: "web", Items: items, Deadlines: Deadlines{Probation: time.Millisecond, MaxPause: patient}, Progress: told(&offered)})
		}()
		to, err := Take(ctx, s, Wish{Name: "web", Progress: told(&taken)})
		if err != nil {
			t.Fatal(err)
		}
		for i, it := range to.Items {
			if it.Kind != Connection || string(it.Meta) != fmt.Sprint(i) || string(it.Unread) != fmt.Sprint("GET /", i) {
				t.Fatalf("item %d is %+v", i, it)
			}
		}
		to.Close()
		if err := to.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		to.Serving()
		if err := errors.Join(to.Wait(ctx), <-done); err != nil {
			t.Error(err)
		}
		messages := (many + itemsPerFrame - 1) / itemsPerFrame
		if len(taken) < messages || taken[len(taken)-1] != many || !slices.IsSorted(taken) {
			t.Errorf("the successor is told %v, of %d messages", taken, messages)
		}
		if len(offered) == 0 || offered[len(offered)-1] != many || !slices.IsSorted(offered) {
			t.Errorf("the predecessor is told %v", offered)
		}
	})
}

// aCrowd hands over while its user has as many descriptors in flight as there may be, for a while or for ever.
var aCrowd = testutil.NewHelper("crowd", func(args []string) error {
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	from, to, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		return err
	}
	// One more than there may be, all of them ours: what others have in flight may be received meanwhile.
	for n := uint64(0); n <= limit.Cur; {
		switch err := from.SendFDs([]byte("x"), []int{0}); {
		case err == nil:
			n++
		case !errors.Is(err, scm.ErrInFlight):
			return err
		default:
			time.Sleep(time.Millisecond)
		}
	}
	forEver := args[0] == "for ever"
	crowded = time.Minute // other tests of this user may have some in flight too
	if forEver {
		crowded = 10 * time.Millisecond
	} else {
		time.AfterFunc(100*time.Millisecond, func() { _ = to.Close() }) // which receives them all
	}
	p, s, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		return err
	}
	offered := make(chan error, 1)
	go func() {
		offered <- Offer(context.Background(), p, Offering{
			Name: "web", Items: []Item{{Name: "x", Kind: File, Conn: os.Stdin}}, Deadlines: Deadlines{Offer: time.Minute, Probation: time.Millisecond},
		})
	}()
	t, err := Take(context.Background(), s, Wish{Name: "web", Deadlines: Deadlines{Offer: time.Minute}})
	if forEver {
		if perr := <-offered; !errors.Is(perr, ErrKept) || !errors.Is(perr, scm.ErrInFlight) || !errors.Is(err, ErrKept) {
			return fmt.Errorf("offer: %w; take: %w", perr, err)
		}
		return to.Close()
	}
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Ready(context.Background()); err != nil {
		return err
	}
	t.Serving()
	return errors.Join(t.Wait(context.Background()), <-offered)
})

// What the user's other processes have in flight for a moment is waited for.
func TestHandoffInCrowd(t *testing.T) {
	for _, how := range []string{"for a while", "for ever"} {
		t.Run(how, func(t *testing.T) {
			testutil.NoLeaks(t)
			cmd := aCrowd.Command(t, how)
			if os.Geteuid() == 0 { // whom nothing bounds
				cmd = aCrowd.CommandAs(t, testutil.Stranger, testutil.Stranger, nil, how)
			}
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A terminal moves: what is typed comes to its new owner.
func TestHandoffOfTerminal(t *testing.T) {
	testutil.NoLeaks(t)
	ctx := t.Context()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	p, s := pair(t, socketpair.SeqPacket)
	done := make(chan error, 1)
	go func() {
		done <- Offer(ctx, p, Offering{
			Name: "terminals", Items: []Item{{Name: "tty", Kind: File, Conn: master, Meta: []byte("session 7")}},
			Deadlines: Deadlines{Probation: time.Millisecond, MaxPause: patient},
		})
	}()
	to, err := Take(ctx, s, Wish{Name: "terminals"})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := to.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	to.Serving()
	if err := errors.Join(to.Wait(ctx), <-done); err != nil {
		t.Fatal(err)
	}
	master.Close()
	tty := to.Items[0].TakeFile()
	defer tty.Close()
	var number int
	if err := sysfd.Control(tty, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	}); err != nil {
		t.Fatalf("%q is no terminal: %v", to.Items[0].Meta, err)
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if _, err := tty.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	typed := make([]byte, 6)
	if _, err := io.ReadFull(slave, typed); err != nil || string(typed) != "typed\n" {
		t.Errorf("%q, %v", typed, err)
	}
}

func TestAbort(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		ctx := t.Context()
		p, s := pair(t, style)
		done := make(chan error, 1)
		go func() {
			done <- Offer(ctx, p, Offering{Name: "web", Items: []Item{{Name: "x", Kind: Listener, Conn: tcp(t)}}})
		}()
		to, err := Take(ctx, s, Wish{Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		to.Abort(errors.New("the configuration is bad"))
		if err := to.Ready(ctx); !errors.Is(err, ErrKept) {
			t.Errorf("ready after abort: %v", err)
		}
		if err := <-done; !errors.Is(err, ErrKept) || err.Error() != `handoff: the predecessor keeps serving: the other side says: "the configuration is bad"` {
			t.Errorf("offer: %v", err)
		}
	})
}

func TestRefusals(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		ctx := t.Context()
		p, s := pair(t, style)
		done := make(chan error, 1)
		go func() { done <- Offer(ctx, p, Offering{Name: "web"}) }()
		_, err := Take(ctx, s, Wish{Name: "mail"})
		if perr := <-done; !errors.Is(perr, ErrKept) || !errors.Is(err, ErrKept) || !(errors.Is(err, ErrName) || errors.Is(perr, ErrName)) {
			t.Errorf("another name: %v; %v", perr, err)
		}

		p, s = pair(t, style)
		go func() {
			done <- Offer(ctx, p, Offering{Name: "web", Items: []Item{{Name: "x", Kind: PacketConn, Conn: tcp(t)}}})
		}()
		_, err = Take(ctx, s, Wish{Name: "web"})
		if perr := <-done; !errors.Is(perr, ErrKept) || !errors.Is(err, ErrItem) {
			t.Errorf("a listener as a packet conn: %v; %v", perr, err)
		}
	})
}

// Without room for a pidfd nobody is pinned, and the error says that it is for want of a descriptor.
func TestUnpinned(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		p, s := pair(t, style)
		empty := testutil.FillTable(t, 0)
		done := make(chan error, 1)
		go func() { done <- Offer(t.Context(), p, Offering{Name: "web"}) }()
		_, err := Take(t.Context(), s, Wish{Name: "web"})
		perr := <-done
		empty()
		for side, err := range map[string]error{"offer": perr, "take": err} {
			if !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), ErrUnpinned.Error()) {
				t.Errorf("%s: %v", side, err)
			}
		}
		// The other one may have it in the words of the first, or find the room that the first has left.
		if first := errors.Join(perr, err); !errors.Is(first, ErrUnpinned) || !errors.Is(first, syscall.EMFILE) || !strings.Contains(first.Error(), "RLIMIT_NOFILE is ") {
			t.Errorf("nobody says why: %v", first)
		}
	})
}

// A pause that fails or takes too long leaves the predecessor serving.
func TestPauseFails(t *testing.T) {
	const limit = 100 * time.Millisecond
	for name, pause := range map[string]func(context.Context) (Final, error){
		"error":    func(context.Context) (Final, error) { return Final{}, errors.New("no") },
		"too long": func(ctx context.Context) (Final, error) { <-ctx.Done(); return Final{}, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			ctx := t.Context()
			p, s := pair(t, socketpair.SeqPacket)
			resumed := false
			done := make(chan error, 1)
			go func() {
				done <- Offer(ctx, p, Offering{
					Name: "web", Pause: pause, Resume: func() { resumed = true }, Deadlines: Deadlines{MaxPause: limit},
				})
			}()
			to, err := Take(ctx, s, Wish{Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if err := to.Ready(ctx); !errors.Is(err, ErrKept) {
				t.Errorf("ready: %v", err)
			}
			if err := <-done; !errors.Is(err, ErrKept) || !resumed {
				t.Errorf("offer: %v, resumed: %v", err, resumed)
			}
		})
	}
}

// onProbation makes a handoff in which the successor serves and the predecessor can still take back. What Offer returns comes
// through the channel.
func onProbation(t *testing.T, style socketpair.Style, probation time.Duration) (*Takeover, <-chan error) {
	t.Helper()
	ctx := t.Context()
	p, s := pair(t, style)
	done := make(chan error, 1)
	go func() {
		done <- Offer(ctx, p, Offering{Name: "web", Deadlines: Deadlines{Probation: probation, MaxPause: patient}})
	}()
	to, err := Take(ctx, s, Wish{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	to.Serving()
	return to, done
}

func TestRelease(t *testing.T) {
	eachStyle(t, func(t *testing.T, style socketpair.Style) {
		ctx := t.Context()
		to, done := onProbation(t, style, time.Hour)
		if err := to.Release(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A successor that owns may leave the handoff. The predecessor sees that it lives, and lets go; nobody claims to know more.
func TestCloseEndsProbation(t *testing.T) {
	testutil.NoLeaks(t)
	ctx := t.Context()
	to, done := onProbation(t, socketpair.SeqPacket, time.Hour)
	if err := to.Close(); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{"wait": to.Wait(ctx), "release": to.Release(ctx)} {
		if !errors.Is(err, os.ErrClosed) || errors.Is(err, ErrKept) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("offer: %v", err)
	}
}

// The end of a channel is not a death: a peer that closes it and lives owns nothing, and loses nothing.
func TestGiveUp(t *testing.T) {
	testutil.NoLeaks(t)
	p, s := pair(t, socketpair.SeqPacket)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Offer(ctx, p, Offering{Name: "web"}) }()
	to, err := Take(t.Context(), s, Wish{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, ErrKept) || !errors.Is(err, context.Canceled) {
		t.Errorf("offer: %v", err)
	}
	if err := to.Ready(t.Context()); !errors.Is(err, ErrKept) {
		t.Errorf("ready: %v", err)
	}
}
