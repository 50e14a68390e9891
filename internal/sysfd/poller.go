//go:build unix

package sysfd

import (
	"os"
	"sync"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

var poller struct {
	sync.Mutex
	started bool
}

// pollerNeeds is how many descriptors the runtime's poller takes when it starts, and those that start
// it here.
const pollerNeeds = 5

// StartPoller starts the runtime's poller, once. The runtime starts it when something has to wait for
// the first time, and if the descriptor table is full by then, which a peer can see to, that is a
// fatal error of the process. Here it is EMFILE.
func StartPoller() error {
	poller.Lock()
	defer poller.Unlock()
	if poller.started {
		return nil
	}
	var room []int
	var err error
	for len(room) < pollerNeeds && err == nil {
		p := make([]int, 2)
		if err = unix.Pipe(p); err == nil {
			room = append(room, p...)
		}
	}
	CloseAll(room)
	if err != nil {
		return errors.WithMessage(os.NewSyscallError("pipe", err), "no room for the runtime's poller; "+Usage())
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	_ = r.SetReadDeadline(time.Now())
	_ = r.Close()
	_ = w.Close()
	poller.started = true
	return nil
}
