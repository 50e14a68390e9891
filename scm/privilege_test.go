//go:build linux

package scm_test

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

// Root of a container has root's number, and the kernel does not treat it so.
func TestWithLessPrivilege(t *testing.T) {
	testutil.Rerun(t, []string{
		"TestSender", "TestSendRefused", "TestSendTooMany", "TestSendWithFullTable", "TestReceiveKeepsOrderAndIdentity",
		"TestReceiveTooMany", "TestReceiveWithFullTable", "TestReceiveUnblocks", "TestReceiveFromHostile",
		"TestLimitChanges", "TestConcurrent", "TestTake", "TestTakeWithFullTable", "TestInspectSockets", "TestBatch",
	},
		"TestSendInFlight")
}

// The limit of descriptors in flight binds a root that has neither CAP_SYS_ADMIN nor CAP_SYS_RESOURCE on this machine.
func TestSendInFlightAsRoot(t *testing.T) {
	for _, p := range []testutil.Privilege{testutil.WithoutSysAdmin, testutil.NamespaceRoot} {
		t.Run(string(p), func(t *testing.T) {
			cmd := p.Become(t, inFlight.Command(t, "SOCK_SEQPACKET", "root"))
			testutil.NoLeaks(t)
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
		})
	}
}
