//go:build linux

package scm_test

import (
	"testing"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
)

// What the message path may allocate. These do not depend on the machine.
func TestAllocations(t *testing.T) {
	if testutil.Race {
		t.Skip("the race detector allocates")
	}
	eachConn(t, func(t *testing.T, a, b *scm.Conn) {
		f := files(t, 1)[0]
		own := numbers(files(t, 16))
		got := make([]int, 16)
		p := make([]byte, 10)
		out, in := []scm.Packet{{Data: p, FDs: own}, {Data: p, FDs: own}}, packets(2, 10, 16)
		for _, row := range []struct {
			what string
			want float64
			pass func()
		}{
			{"SendFDs and ReceiveFDs", 0, func() {
				_ = a.SendFDs(p, own)
				_, n, _ := b.ReceiveFDs(p, got)
				sysfd.CloseAll(got[:n])
			}},
			{"SendBatch and ReceiveBatch", 0, func() {
				_, _ = a.SendBatch(out)
				_, _ = b.ReceiveBatch(in)
				sysfd.CloseAll(in[0].FDs)
				sysfd.CloseAll(in[1].FDs)
			}},
			{"Send and Receive", 3, func() {
				_ = a.Send(p, f)
				m, _ := b.Receive(p, 1)
				_ = m.Close()
			}},
		} {
			if allocs := testing.AllocsPerRun(100, row.pass); allocs > row.want {
				t.Errorf("%s: %v allocations, want at most %v", row.what, allocs, row.want)
			}
		}
	})
}
