//go:build linux

package credentials_test

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

// Root of a container finds out who is who as any root does.
func TestWithLessPrivilege(t *testing.T) {
	testutil.Rerun(t, []string{
		"TestPeerOfPair", "TestPeerProcess", "TestPeerGroupsOfPair", "TestNoPeer", "TestPolicySameUser", "TestProcessWait",
		"TestProcessInAnotherPidNamespace", "TestExchangeInOneProcess", "TestExchangeWithTwoWriters",
		"TestExchangeWithHostile", "TestExchangeAcrossPidNamespaces", "TestExchangeInUserNamespaceWithOwnNumber",
		"TestReusedPid",
	},
		"TestPeerOfPath", "TestPeerIsEffectiveAndExchangeReal", "TestPeerStaysAfterSetuid", "TestPeerGroups",
		"TestPolicyCheck", "TestProcessOfAnotherUser", "TestExchangeWithChild", "TestExchangeOverPath",
		"TestExchangeCannotBeForgedByOthers", "TestExchangeWithWhoChangesIds", "TestExchangeAcrossUserNamespaces",
		"TestSetuidExecAfterConnect", "TestListener")
}
