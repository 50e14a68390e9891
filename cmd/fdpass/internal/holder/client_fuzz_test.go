//go:build linux

package holder

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// Whatever a holder answers, in whatever pieces, the client ends with what it was given and nothing else.
func FuzzClient(f *testing.F) {
	frame := func(nfds int, payload string) []byte {
		b := unhex(f, payload)
		return append(appendHeader(nil, len(b), nfds), b...)
	}
	for op, answer := range [][]byte{
		frame(0, "00"),
		frame(1, "00"),
		frame(0, "00"),
		frame(0, "00"+realList),
		append(frame(0, "00"+realDump), frame(2, realEntries)...),
	} {
		for _, nfds := range []uint8{0, 1, 2} {
			f.Add(uint8(op), answer, nfds, uint8(255))
			f.Add(uint8(op), answer, nfds, uint8(3))
		}
		f.Add(uint8(op), frame(0, "02"), uint8(0), uint8(255))
	}
	f.Add(uint8(4), append(frame(0, "00"+realDump), frame(1, "600000006b070d02000000000377656200")...), uint8(1), uint8(255))
	startPoller(f)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(null) })
	f.Fuzz(func(t *testing.T, op uint8, stream []byte, nfds, piece uint8) {
		before := testutil.Count(t)
		p, q, err := scm.Pair(socketpair.Stream)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*scm.Conn{p, q} {
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		}
		played := make(chan struct{})
		go func() {
			defer close(played)
			for len(stream) > 0 {
				n := min(len(stream), int(piece)+1)
				fds := make([]int, min(int(nfds), 30))
				for i := range fds {
					fds[i] = null
				}
				if q.SendFDs(stream[:n], fds) != nil {
					return
				}
				stream, nfds = stream[n:], nfds/2
			}
			_ = sysShutdown(q)
		}()
		c := &Client{newChannel(p, maxAnswer), "/nowhere"}
		switch op % 5 {
		case 0:
			_ = c.Store("web", Never(time.Now()), p)
		case 1:
			if fd, err := c.Retrieve("web", true); err == nil {
				_ = fd.Close()
			} else if fd != -1 {
				t.Errorf("%d and %v", fd, err)
			}
		case 2:
			_ = c.Delete("web")
		case 3:
			if names, err := c.List(); err != nil && names != nil {
				t.Errorf("%q and %v", names, err)
			}
		case 4:
			all, err := c.Dump()
			if err != nil && all != nil {
				t.Errorf("%v and %v", all, err)
			}
			closeDump(all)
		}
		_ = c.Close()
		<-played
		_ = q.Close()
		testutil.Eventually(t, "everything is closed", func() bool { return testutil.Count(t) <= before })
	})
}
