//go:build ignore

// Command takeout takes the protections of docs/guarantees.md out of the code, one at a time, and runs the test
// that the page names for each: it must fail. The tree is not touched, the compiler sees another file in
// place of one of its own.
//
//	go run .ci/takeout.go           all of them
//	go run .ci/takeout.go fence …   some
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A protection is a line of code. Name is that of the page.
type protection struct {
	name, file, line, without string
	pkg, test                 string
}

var protections = []protection{
	{"scm-whole", "scm/receive.go", `sysfd.Discard(append(got.FDs, got.PIDFD))`, ``, "./scm", "TestReceiveTooMany$"},
	{"scm-lost", "scm/receive.go", `case flags&unix.MSG_CTRUNC != 0 || got.Refused > 0:`, `case got.Refused > 0:`, "./scm", "TestReceiveWithFullTable"},
	{"scm-end", "scm/receive.go", `case n == 0 && len(got.FDs) == 0 && mayEnd && c.atEnd(got.HasCred):`, `case n == 0 && mayEnd:`, "./scm", "TestReceiveEmptyPacketWithDescriptors"},
	{"scm-reset", "scm/receive.go", `if rx.errno != unix.ECONNRESET || rx.reset != none {`, `if true {`, "./scm", "TestReceiveBehindReset"},
	{"scm-stdio", "scm/receive.go", `err = raise(&got)`, `err = nil`, "./scm", "TestReceiveWithoutStdio"},
	{"scm-cloexec", "scm/header_unsafe.go", `flags := unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC`, `flags := unix.MSG_DONTWAIT`, "./scm", "TestReceiveKeepsOrderAndIdentity"},
	{"scm-self", "scm/send.go", `if c.isSelf(int(fd)) {`, `if false {`, "./scm", "TestSendOverItself"},
	{"scm-once", "scm/send.go", "\t\tfds = nil\n", "", "./scm", "TestSendLongOverStream"},
	{"scm-broken", "scm/send.go", `if sent == 0 {`, `if true {`, "./scm", "TestSendCutOff"},
	{"scm-borrow", "scm/send.go", `tx.once = true`, `tx.once = false`, "./scm", "TestSendDoesNotHoldUpClose"},
	{"scm-in-flight", "scm/send.go", `case errno == unix.ETOOMANYREFS:`, `case false:`, "./scm", "TestSendInFlight"},
	{"scm-refused", "scm/send.go", `case errno == unix.EPERM && len(fds) > 0:`, `case false:`, "./scm", "TestSendRefused"},
	{"scm-datagram", "scm/send.go", `_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes one that waits already`, `_ = time.Time{}`, "./scm", "TestReceiveIsToldThatDatagramPeerIsGone"},
	{"scm-inspect", "scm/inspect.go", `if c == nil {`, `if false {`, "./scm", "TestReceiveFromHostile"},
	{"scm-wakes", "scm/conn.go", `return c.handle.Close()`, `return nil`, "./scm", "TestReceiveUnblocks$"},
	{"scm-linger", "internal/sysfd/discard.go", `time.NewTimer(50 * time.Millisecond)`, `time.NewTimer(time.Hour)`, "./scm", "TestReceiveRefusesLingering"},
	{"scm-threads", "internal/sysfd/discard.go", `if d.running == maxDiscarding {`, `if false {`, "./internal/sysfd", "TestDiscardThreads"},
	{"scm-signed", "internal/cmsg/cmsg.go", `; fd >= 0 {`, `; fd >= -1<<31 {`, "./internal/cmsg", "TestParse$"},

	{"pair-once", "internal/sysfd/claim.go", `return ErrClaimed`, `return nil`, "./socketpair ./scm", "TestInherit"},

	{"cred-nobody", "credentials/sender.go", `if !stamp.Known() {`, `if false {`, "./credentials", "TestNewSender"},
	{"cred-forged", "credentials/exchange_linux.go", `if info.RealUID != s.UID || info.RealGID != s.GID {`, `if false {`, "./credentials", "TestExchangeForged"},
	{"cred-writers", "credentials/exchange_linux.go", `if !same {`, `if !same && false {`, "./credentials", "TestExchangeWithTwoWriters"},
	{"cred-descriptors", "credentials/exchange_linux.go", `case len(got.FDs) > 0 || x.flags&unix.MSG_CTRUNC != 0:`, `case false:`, "./credentials", "TestExchangeWithHostile"},
	{"cred-deadline", "credentials/exchange_linux.go", `_ = d.SetDeadline(time.Unix(1, 0))`, ``, "./credentials", "TestExchangeCutOff"},
	{"cred-zero-policy", "credentials/policy.go", `return len(policies) > 0, nil`, `return true, nil`, "./credentials", "TestPolicyCheck"},

	{"handoff-take-back", "handoff/machine.go", `case p.on(guardTakeBack):`, `case false:`, "./handoff", "TestAttackOffer/dies_after"},
	{"handoff-hang", "handoff/machine.go", `if p.on(guardHang) {`, `if false {`, "./handoff", "TestAttackOffer/hangs_after"},
	{"handoff-fence", "handoff/machine.go", "\t\tif !p.on(guardFence) {\n\t\t\treturn p.takeBack()\n\t\t}\n\tcase evTimeout", "\t\treturn p.takeBack()\n\tcase evTimeout", "./handoff", "TestExplore$"},
	{"handoff-verify", "handoff/item.go", `if it.Kind == File || it.Kind == Connection {`, `if true {`, "./handoff", "TestAttackTake/a_Unix_listener_that_was_shut_down"},
	{"handoff-count", "handoff/take.go", `if len(t.Items) != t.count {`, `if false {`, "./handoff", "TestAttackTake/fewer_items"},
	{"handoff-names", "handoff/take.go", `if it.Kind != Connection && names[it.Name] {`, `if false {`, "./handoff", "TestAttackTake/two_of_one_name"},
	{"handoff-acks", "handoff/offer.go", `if n -= before; n < acked || n > sent {`, `if n -= before; false {`, "./handoff", "TestAttackOffer/acknowledges"},
	{"handoff-resume", "handoff/offer.go", "\t\t\t<-p.paused\n", "", "./handoff", "TestResumeComesBehindPause"},
	{"handoff-reason", "handoff/driver.go", `d.fail(errLeft)`, ``, "./handoff", "TestServiceUnderAttack"},
	{"handoff-policy", "handoff/driver.go", `if err = policy.CheckSender(&peer); err == nil && peer.Process == nil {`, `if peer.Process == nil {`, "./handoff", "TestPolicyOfPair"},
	{"handoff-silent", "handoff/control.go", `if err := policyOr(s.options.Policy).Check(c); err != nil {`, `if err := error(nil); err != nil {`, "./handoff", "TestServiceAndStranger"},
	{"handoff-mode", "handoff/control.go", `syscall.Fchmod(int(fd), 0o600)`, `syscall.Fchmod(int(fd), 0o666)`, "./handoff", "TestServiceAndStranger"},
	{"handoff-folder", "handoff/control.go", `if info.Mode().Perm()&0o002 != 0 {`, `if false {`, "./handoff", "TestStartRefusesFolder"},
	{"handoff-owner", "handoff/control.go", `if !anyOwner && owner != 0 && (owner != int64(os.Geteuid()) || !known) {`, `if _ = known; false {`, "./handoff", "TestStartRefusesFolder"},
	{"handoff-file", "handoff/socket.go", `lerr != nil || info.Mode().Type() != os.ModeSocket`, `lerr != nil && info == nil`, "./handoff", "TestListenLeavesFiles"},
	{"handoff-fresh", "handoff/socket.go", `filepath.Join(filepath.Dir(address), "."+rand.Text()[:8])`, `address + ".new"; _, _ = rand.Text(), filepath.Dir`, "./handoff", "TestStrangerBesideStalePath"},
	{"handoff-face", "handoff/socket.go", `_ = sysfd.Control(l.ln, func(fd int) error { return syscall.Listen(fd, math.MaxUint16) })`, `_, _, _ = sysfd.Control, syscall.Listen, math.MaxUint16`, "./handoff", "TestServiceUnixOwner"},

	{"systemd-barrier", "systemd/listener.go", ` || isBarrier(n) {`, ` {`, "./systemd", "TestBarrier$"},
	{"systemd-drop", "systemd/listener.go", `case errors.Is(err, scm.ErrTruncated), errors.Is(err, scm.ErrMalformed):`, `case false:`, "./systemd", "TestListenNotifyHostile"},
	{"systemd-sender", "systemd/listener.go", `err = conn.SetPassCred(true)`, `err = nil`, "./systemd", "TestNotify$"},
	{"systemd-linger", "systemd/listener.go", `sysfd.Discard(left)`, `sysfd.CloseAll(left)`, "./systemd", "TestListenNotifyLinger"},

	{"fdpass-path", "cmd/fdpass/endpoint.go", `err == nil && os.SameFile(now, own) {`, `err == nil && now != nil && own != nil {`, "./cmd/fdpass", "TestListenLeavesOthersPath"},
	{"fdpass-mode", "cmd/fdpass/endpoint.go", `unix.Fchmod(int(fd), 0o600)`, `unix.Fchmod(int(fd), 0o666)`, "./cmd/fdpass", "TestListenMode"},
	{"fdpass-peer", "cmd/fdpass/endpoint.go", `if err := e.peer.check(c); err != nil {`, `if err := error(nil); err != nil {`, "./cmd/fdpass", "TestListenRefusesPeer"},
	{"fdpass-lock", "cmd/fdpass/internal/address/open_linux.go", `err == unix.EWOULDBLOCK && time.Now().After(end) {`, `false && end.IsZero() {`, "./cmd/fdpass/internal/address", "TestOpenPathInLockedFolder"},
	{"fdpass-file", "cmd/fdpass/internal/address/open_linux.go", `if st.Mode&unix.S_IFMT != unix.S_IFSOCK {`, `if false {`, "./cmd/fdpass/internal/address", "TestOpenPathRefuses"},
	{"fdpass-linger", "cmd/fdpass/internal/supervise/notify_linux.go", `sysfd.DiscardLater(fds)`, `go sysfd.CloseAll(fds)`, "./cmd/fdpass/internal/supervise", "TestNotifyLinger"},
	{"fdpass-hold", "cmd/fdpass/internal/holder/server.go", `if !c.access.may(Retrieve, r.name) || `, `if `, "./cmd/fdpass", "TestHoldAccess"},
}

func main() {
	failed := false
	for _, p := range protections {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], p.name) {
			continue
		}
		begin := time.Now()
		if err := p.takeOut(); err != nil {
			failed = true
			fmt.Printf("%-18s NOT HELD by %s: %v\n", p.name, p.test, err)
		} else {
			fmt.Printf("%-18s held by %s (%.1f s)\n", p.name, p.test, time.Since(begin).Seconds())
		}
	}
	if failed {
		os.Exit(1)
	}
}

// takeOut returns nil if the test fails without the protection.
func (p *protection) takeOut() error {
	b, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(b), p.line); n != 1 {
		return fmt.Errorf("%s has the line %d times", p.file, n)
	}
	dir, err := os.MkdirTemp("", "takeout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	without := filepath.Join(dir, "without.go")
	if err := os.WriteFile(without, []byte(strings.Replace(string(b), p.line, p.without, 1)), 0o600); err != nil {
		return err
	}
	path, err := filepath.Abs(p.file)
	if err != nil {
		return err
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: without}})
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return err
	}
	args := append([]string{"test", "-overlay", overlay, "-run", p.test, "-count=1", "-timeout=90s"}, strings.Fields(p.pkg)...)
	cmd := exec.Command("go", args...)
	// The programs that the tests build are to be without it too.
	cmd.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return fmt.Errorf("the test passes")
	case strings.Contains(string(out), "[build failed]") || strings.Contains(string(out), "[setup failed]"):
		return fmt.Errorf("it does not compile: %s", out)
	case !strings.Contains(string(out), "--- FAIL") && !strings.Contains(string(out), "panic:") && !strings.Contains(string(out), "fatal error:"):
		return fmt.Errorf("the test did not run: %s", out)
	}
	return nil
}
