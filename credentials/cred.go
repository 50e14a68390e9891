//go:build unix

package credentials

import (
	"fmt"
	"os"
)

// Cred is a process id, a user id and a group id, as numbers of this process's namespaces. It is
// comparable.
type Cred struct {
	// PID is 0 if it was not told: the process is not visible in this pid namespace, or the system
	// does not say. 0 never means root or the kernel.
	PID int
	UID uint32
	GID uint32
}

// Self returns the credentials of this process as a peer on a new connection sees them: its pid and
// its effective ids.
func Self() Cred {
	return Cred{PID: os.Getpid(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// Known reports whether c identifies a process: it has a pid, and its uid is not one of the values
// by which the kernel says that there is none, or none that has a number in this user namespace
// (65534 there, which several unrelated users then share).
func (c Cred) Known() bool { return c.PID > 0 && isMapped(c.UID) }

// String returns c for a log: "pid 71 uid 1000 gid 1000".
func (c Cred) String() string {
	if c.PID == 0 {
		return fmt.Sprintf("pid unknown uid %d gid %d", c.UID, c.GID)
	}
	return fmt.Sprintf("pid %d uid %d gid %d", c.PID, c.UID, c.GID)
}

// noID is (uid_t)-1, "no user".
const noID = ^uint32(0)
