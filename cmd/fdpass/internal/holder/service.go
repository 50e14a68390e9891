//go:build unix

package holder

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/handoff"
	"github.com/fdkit/fdkit/internal/sysfd"
)

// Options are those of a holder.
type Options struct {
	Path  string      // of its socket
	Mode  fs.FileMode // likewise: who can connect at all
	Rules []Rule      // beside the same user and root, who may do everything
	Limits
	Log *slog.Logger
}

// own is how many descriptors a holder needs beside those that it holds.
const own = 64 + spares

// MostOf returns how many descriptors a process with this RLIMIT_NOFILE can hold.
func MostOf(limit uint64) int {
	// Handed over, they are items; there is room for a few beside them.
	return int(min(max(limit, own)-own, 1<<16-1024))
}

// Hold holds descriptors until ctx is done, a signal tells it to stop, or a successor has taken over
// everything.
//
// If a holder serves at the path already, this one takes over from it: the socket, all descriptors with
// names, expiries and owners, and the connections of clients, who notice nothing but a pause.
func Hold(ctx context.Context, o Options) error {
	most := MostOf(sysfd.Limit())
	switch {
	case o.Max == 0:
		o.Max = min(most, 10000)
	case o.Max > most:
		return errors.Errorf("%d descriptors are more than can be held: RLIMIT_NOFILE is %d, so %d are the most (ulimit -n, LimitNOFILE=)",
			o.Max, sysfd.Limit(), most)
	}
	store := newStore(o.Limits)
	server := newServer(store, o.Rules, o.Path, o.Log)
	var svc *handoff.Service
	svc, err := handoff.Start(ctx, handoff.Options{
		Name: "fdpass hold", Socket: o.Path + ".handoff", Logger: o.Log,
		// Clients wait meanwhile, and nothing is lost.
		Deadlines: handoff.Deadlines{MaxPause: 5 * time.Second, Probation: 250 * time.Millisecond},
		Final: func(context.Context) (handoff.Final, error) {
			return handoff.Final{State: appendIDs(nil, store.ids())}, nil
		},
		Events: func(e handoff.Event) {
			if e.Kind != handoff.EventOffering {
				return
			}
			// From here on nothing changes, so that what is offered is what there is.
			number := server.freeze()
			go func() {
				svc.Forget("") // returns when the handoff is over
				if svc.Reason() == "" {
					server.thaw(number)
				}
			}()
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ln, err := listen(svc, o.Path, o.Mode)
	if err == nil {
		err = adopt(svc, store)
	}
	if err != nil {
		return giveUp(svc, err)
	}
	go server.serve(ln)
	if err := svc.Ready(ctx); err != nil {
		return err
	}
	final, _ := svc.Final() // what was deleted last is back if it is lost
	if final.State != nil {
		ids, err := parseIDs(final.State)
		if err != nil {
			return err
		}
		store.retain(ids)
	}
	go store.run(ctx)
	server.set(serving)
	select {
	case <-svc.Stopping():
	case <-ctx.Done():
		if err := svc.Stop(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return end(svc, server)
}

// giveUp ends a service that has not begun, and returns err. A predecessor sees that this process ends, and
// serves on.
func giveUp(svc *handoff.Service, err error) error {
	if svc.Generation() > 1 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = svc.Stop(ctx)
	_ = svc.Drain(ctx)
	return err
}

// end gives the clients to the successor, or lets their answers be read, and returns when all are gone.
func end(svc *handoff.Service, server *server) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if svc.Reason() == handoff.HandedOver {
		server.set(handed)
	}
	err := svc.Drain(ctx)
	server.set(ended)
	gone := make(chan struct{})
	go func() {
		server.active.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
	return err
}

// listen returns the predecessor's socket, or makes it, with this mode from the beginning.
func listen(svc *handoff.Service, path string, mode fs.FileMode) (net.Listener, error) {
	old := unix.Umask(int(^mode & 0o777))
	ln, err := svc.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			err = errors.WithMessage(err, "another program serves there")
		}
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil { // one of the predecessor's
		return nil, err
	}
	return ln, nil
}

// adopt puts what the predecessor held into the store.
func adopt(svc *handoff.Service, store *store) error {
	store.svc = svc
	items := svc.Adopted()
	store.mu.Lock()
	defer store.mu.Unlock()
	for i := range items {
		e, err := parseMeta(items[i].Meta)
		if err == nil && store.entries[e.Name] != nil {
			err = errMalformed
		}
		if err != nil {
			for ; i < len(items); i++ {
				_ = items[i].Close()
			}
			return errors.WithMessage(err, "take over what was held")
		}
		e.fd = items[i].TakeFD()
		store.next = max(store.next, e.id)
		store.put(e)
	}
	return nil
}
