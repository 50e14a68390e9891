//go:build linux

package socketpair_test

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

// Pairs need no privilege.
func TestWithLessPrivilege(t *testing.T) {
	testutil.Rerun(t, []string{
		"TestConn", "TestCreate", "TestFullTable", "TestInherit", "TestForChildOfAnotherProgram",
	})
}
