//go:build linux

package main

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

// All commands work as root of a container, and a stranger there is one.
func TestWithLessPrivilege(t *testing.T) {
	testutil.Rerun(t, []string{
		"TestNotify", "TestSendOverInheritedSocket", "TestRecvOverInheritedSocket", "TestListenMode", "TestListenRefusesPeer",
		"TestRestart", "TestServeNotify", "TestServePath", "TestHoldAfterCrash", "TestTransferIsWhole", "TestWaitReady",
		"TestWaitReadyMainPID",
	},
		"TestHoldAccess", "TestControlStranger", "TestWaitReadyUsers", "TestStrangerWasFirst", "TestStrangerReplacesPath",
		"TestStrangerNotifies", "TestStrangerIsNoService", "TestStrangersAreSilent")
}
