//go:build linux

package handoff

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

// A service moves as root of a container as it does as any root.
func TestWithLessPrivilege(t *testing.T) {
	t.Parallel()
	testutil.Rerun(t, []string{
		"TestServiceTakeover", "TestServiceUpgrade", "TestServiceSuccessorFails", "TestServiceSuccessorToldToStop",
		"TestServiceTwoSuccessors", "TestServiceUnixOwner", "TestServiceReplacesStalePath", "TestMove",
		"TestMoveBetweenRequests", "TestMoveCrash", "TestMoveHostile", "TestHandoff", "TestServiceInherits",
	},
		"TestServiceAndStranger", "TestStrangerAtPaths", "TestStrangerBesideStalePath", "TestStartRefusesFolder")
}

// launchBecome is launch with another privilege.
func launchBecome(t *testing.T, c serviceConfig, cmd *exec.Cmd) *running {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return launchCommand(t, cmd, "SERVICE="+string(b))
}

// A service moves to root of a user namespace that is the same user outside, and from there back.
func TestServiceToNamespaceRootAndBack(t *testing.T) {
	for _, p := range []testutil.Privilege{testutil.WithoutSysAdmin, testutil.NamespaceRoot} {
		t.Run(string(p), func(t *testing.T) {
			there := p.Become(t, aService.Command(t))
			c := config(t)
			first := launch(t, c)
			ready := first.await("ready")
			second := launchBecome(t, c, there)
			next := second.awaitEach("ready", string(EventSettled))[0]
			mustServe(t, c, ready.Addr, next.PID)
			first.await("end")
			// Its own successor, which it starts, is there too.
			_ = syscall.Kill(next.PID, syscall.SIGHUP)
			child := second.await("ready")
			mustServe(t, c, ready.Addr, child.PID)
			third := launch(t, c)
			back := third.await("ready")
			if back.State == "" || back.Addr != ready.Addr {
				t.Errorf("%+v after %+v", back, ready)
			}
			mustServe(t, c, ready.Addr, back.PID)
			_ = syscall.Kill(back.PID, syscall.SIGTERM)
			third.await("end")
		})
	}
}

// A successor that hangs in a user namespace can be killed from outside it, and the other way round, if it is the same
// user: so it can be taken back from.
func TestServiceFencesNamespaceRoot(t *testing.T) {
	for _, inside := range []string{"predecessor", "successor"} {
		t.Run(inside, func(t *testing.T) {
			there := testutil.NamespaceRoot.Become(t, aService.Command(t))
			c := config(t)
			hangs := c
			c.Deadlines.Commit = 200 * time.Millisecond
			hangs.Role, hangs.Step, hangs.Before, hangs.Do = "successor", stepProbation, "send serving", "stop"
			var first, second *running
			if inside == "predecessor" {
				first = launchBecome(t, c, there)
			} else {
				first = launch(t, c)
			}
			ready := first.await("ready")
			if inside == "predecessor" {
				second = launch(t, hangs)
			} else {
				second = launchBecome(t, hangs, there)
			}
			first.await(string(EventTookBack))
			mustServe(t, c, ready.Addr, ready.PID)
			<-second.ended
			if s := second.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGKILL {
				t.Errorf("the successor has ended with %v", second.ProcessState)
			}
			_ = syscall.Kill(ready.PID, syscall.SIGTERM)
			first.await("end")
		})
	}
}

// elsewhereRoot is the service as root of a user namespace who is uid 4300 outside, and has no number for anybody else.
func elsewhereRoot(t *testing.T) *exec.Cmd {
	t.Helper()
	testutil.NamespaceRoot.Become(t, exec.Command("true")) // or skips
	cmd := aService.CommandAs(t, 0, 0, nil)
	one := []syscall.SysProcIDMap{{HostID: 4300, Size: 1}}
	cmd.SysProcAttr.Cloneflags, cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = unix.CLONE_NEWUSER, one, one
	cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	return cmd
}

// Who has no number in the namespace of one side is nobody there: never root, whatever the policy says, and
// whatever the other side would permit. The service stays where it is, and everybody is told in his own words.
func TestServiceAcrossNamespaces(t *testing.T) {
	testutil.NeedRoot(t)
	const outside, there, nobody = 0, 4300, 65534
	for _, c := range []struct {
		what            string
		there           string // which side is
		open            bool   // the mode of the path lets everybody in
		predecessor     []uint32
		successor       []uint32
		sentinels, says string // of the successor
		event           string // of the predecessor, if it hears of it
	}{
		{"the folder is nobody's", "successor", false, nil, nil,
			"permission", "belongs to uid 65534", ""},
		{"the path is another's", "successor", false, nil, []uint32{outside, nobody},
			"permission", "permission denied", ""},
		{"the path is open", "successor", true, nil, []uint32{outside, nobody},
			"denied kept permission", "uid 65534 gid 65534: it is not (uid 0 or uid 65534)", "uid 4300 gid 4300: it is not (the same user or root)"},
		{"the predecessor permits it", "successor", true, []uint32{outside, there}, []uint32{outside, nobody},
			"kept no identity", "the peer did not prove who it is", "the other"},
		{"the folder is another's", "predecessor", false, nil, nil,
			"permission", "belongs to uid 4300", ""},
		{"the successor permits it", "predecessor", false, nil, []uint32{there},
			"denied kept", "closes the connection without a word", "uid 65534 gid 65534: it is not (the same user or root)"},
		{"the successor permits it and nobody is permitted", "predecessor", false, []uint32{outside, nobody}, []uint32{there},
			"denied kept", "closes the connection without a word", "uid 65534 gid 65534: it is not (uid 0 or uid 65534)"},
	} {
		t.Run(c.what, func(t *testing.T) {
			cmd := elsewhereRoot(t)
			p := config(t)
			dir := testutil.PublicDir(t, 0o755)
			p.Socket, p.Unix, p.Users = filepath.Join(dir, "control"), filepath.Join(dir, "web"), c.predecessor
			s := p
			s.Users = c.successor
			var first, second *running
			if c.there == "predecessor" {
				if err := os.Chown(dir, there, there); err != nil {
					t.Fatal(err)
				}
				first = launchBecome(t, p, cmd)
			} else {
				first = launch(t, p)
			}
			ready := first.await("ready")
			if c.open {
				if err := os.Chmod(p.Socket, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if c.there == "predecessor" {
				second = launch(t, s)
			} else {
				second = launchBecome(t, s, cmd)
			}
			refused := second.await("refused")
			if refused.Name != c.sentinels || !strings.Contains(refused.Error, c.says) {
				t.Errorf("the successor is refused with %q: %s; want %q: %s", refused.Name, refused.Error, c.sentinels, c.says)
			}
			if c.event != "" {
				if kept := first.await(string(EventKept)); !strings.Contains(kept.Error, c.event) {
					t.Errorf("the predecessor says %q, want %q", kept.Error, c.event)
				}
			}
			mustServe(t, p, ready.Addr, ready.PID)
			// Who is permitted still gets it.
			next, after := untilReady(t, func() *running {
				if c.there == "predecessor" {
					return launchBecome(t, p, elsewhereRoot(t))
				}
				return launch(t, p)
			}, refusedAsSecond)
			mustServe(t, p, ready.Addr, after.PID)
			_ = syscall.Kill(after.PID, syscall.SIGTERM)
			next.await("end")
		})
	}
}

// Everybody without a number in a user namespace has the same one there: a folder of that number is nobody's own.
func TestStartRefusesFolderOfNobody(t *testing.T) {
	testutil.NeedRoot(t)
	cmd := elsewhereRoot(t)
	cmd.SysProcAttr.Credential = nil // so it has no number itself
	c := config(t)
	dir := testutil.PublicDir(t, 0o755)
	c.Socket, c.Unix = filepath.Join(dir, "control"), filepath.Join(dir, "web")
	refused := launchBecome(t, c, cmd).await("refused")
	if refused.Name != "permission" || !strings.Contains(refused.Error, "belongs to uid 65534") {
		t.Errorf("refused with %q: %s", refused.Name, refused.Error)
	}
}
