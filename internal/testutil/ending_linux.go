package testutil

import (
	"io"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Ending has one end of a SOCK_SEQPACKET send and shut down while the other begins to receive, again and again:
// recvmsg(2) that does not wait looks whether a packet is there, then whether the other end has shut down, and when
// both happened in between it returns 0, a few in a hundred thousand times, and oftener here. meet makes a pair and
// returns what receives at its end, and must then find what send has sent. way is about how long it takes to get to
// recvmsg(2).
func Ending(t testing.TB, way time.Duration, send func(fd int) error, meet func() (end io.Closer, receive func())) {
	t.Helper()
	var turn atomic.Int64 // odd: the other end's
	var end io.Closer
	over := make(chan struct{})
	go func() {
		defer close(over)
		for i := int64(1); ; i += 2 {
			for turn.Load() != i {
				runtime.Gosched()
			}
			if end == nil {
				return
			}
			raw, err := end.(syscall.Conn).SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) {
					for begin := time.Now().Add(rand.N(2 * way)); time.Now().Before(begin); {
					}
					if err := send(int(fd)); err != nil {
						t.Error(err)
					}
					_ = unix.Shutdown(int(fd), unix.SHUT_WR)
				})
			}
			if err != nil {
				t.Error(err)
			}
			turn.Add(1)
		}
	}()
	for last := time.Now().Add(400 * time.Millisecond); time.Now().Before(last) && !t.Failed(); {
		var receive func()
		end, receive = meet()
		turn.Add(1)
		receive()
		for turn.Load()%2 != 0 {
			runtime.Gosched()
		}
		_ = end.Close()
	}
	end = nil
	turn.Add(1)
	<-over
}
