//go:build linux

package systemd_test

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

// Root of a container cannot write in another process's name; then it writes in its own.
func TestWithLessPrivilege(t *testing.T) {
	testutil.Rerun(t, []string{
		"TestNotify", "TestNotifyFor", "TestSystemdNotify", "TestBarrier", "TestStore", "TestListenNotifyHostile",
		"TestListenNotifyFullTable", "TestInherited", "TestTakeInherited", "TestStart",
	},
		"TestListenNotifyFlood", "TestStartAsOtherUser")
}
