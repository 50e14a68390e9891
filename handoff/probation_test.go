//go:build linux

package handoff

import (
	"errors"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// A predecessor that comes late to the end of probation, because it was stopped, asks first whether the successor lives.
func TestProbationEndsLate(t *testing.T) {
	testutil.NoLeaks(t)
	for range 10 { // a timer and a death that wait both are seen in any order
		c, letGo := attackBy(t, socketpair.SeqPacket, "successor", "dies when it serves")
		probe = func(_ string, at step, before string) {
			if at == stepProbation && before == "" {
				letGo() // it is dead and waited for, and meanwhile the time is over
			}
		}
		resumed := false
		err := within(t, func() error {
			return Offer(t.Context(), c, Offering{
				Name: "test", Resume: func() { resumed = true },
				Deadlines: Deadlines{MaxPause: patient, Commit: patient, Probation: time.Nanosecond},
			})
		})
		probe = nil
		if !errors.Is(err, ErrTookBack) || !resumed {
			t.Fatalf("offer: %v, resumed: %v", err, resumed)
		}
	}
}
