//go:build ignore

// Command takeout takes the protections of docs/guarantees.md out of the code, one at a time, and runs the test
// that the page names for each: it must fail. The test is run with the code as it is too, where it must pass, or
// its failure would say nothing. The tree is not touched, the compiler sees another file in place of one of its own.
//
//	go run .ci/takeout.go           all of them
//	go run .ci/takeout.go fence …   some
package main

import (
	"encoding/json"
	"errors"
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
	{"scm-before-end", "scm/receive.go", `if !tellsEnd || rx.ended || !sysfd.HungUp(fd) {`, `if true {`, "./scm", "TestReceiveBeforeEnd"},
	{"scm-stdio", "scm/receive.go", `err = raise(&got)`, `err = nil`, "./scm", "TestReceiveWithoutStdio"},
	{"scm-cloexec", "scm/header_unsafe.go", `flags := unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC`, `flags := unix.MSG_DONTWAIT`, "./scm", "TestReceiveKeepsOrderAndIdentity"},
	{"scm-self", "scm/send.go", `if sameSocket(lent, fd) {`, `if false && sameSocket(lent, fd) {`, "./scm", "TestSendOverItself"},
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
	{"cred-listener", "credentials/listener.go", `ok && l.policy.Check(c) == nil {`, `ok && c != nil {`, "./credentials", "TestListener$"},
	{"cred-reused", "credentials/process.go", `signal(p.pidfd, sig), "credentials: send`, `syscall.Kill(p.pid, sig), "credentials: send`, "./credentials", "TestReusedPid"},
	{"cred-zero-policy", "credentials/policy.go", `return len(policies) > 0, nil`, `return true, nil`, "./credentials", "TestPolicyCheck"},

	{"handoff-take-back", "handoff/machine.go", `case p.on(guardTakeBack):`, `case false:`, "./handoff", "TestAttackOffer/dies_after"},
	{"handoff-hang", "handoff/machine.go", `if p.on(guardHang) {`, `if false {`, "./handoff", "TestAttackOffer/hangs_after"},
	{"handoff-fence", "handoff/machine.go", "\t\tif !p.on(guardFence) {\n\t\t\treturn p.takeBack()\n\t\t}\n\tcase evTimeout", "\t\treturn p.takeBack()\n\tcase evTimeout", "./handoff", "TestExplore$"},
	{"handoff-verify", "handoff/item.go", `if it.Kind == File || it.Kind == Connection {`, `if true {`, "./handoff", "TestAttackTake/a_Unix_listener_that_was_shut_down"},
	{"handoff-count", "handoff/take.go", `if len(t.Items) != t.count {`, `if false {`, "./handoff", "TestAttackTake/fewer_items"},
	{"handoff-names", "handoff/take.go", `if t.names[it.Name] {`, `if false {`, "./handoff", "TestAttackTake/two_of_one_name"},
	{"handoff-acks", "handoff/offer.go", `if n -= before; n < acked || n > sent {`, `if n -= before; false {`, "./handoff", "TestAttackOffer/acknowledges"},
	{"handoff-resume", "handoff/offer.go", "\t\t\t<-p.paused\n", "", "./handoff", "TestResumeComesBehindPause"},
	{"handoff-reason", "handoff/driver.go", `d.fail(errLeft)`, ``, "./handoff", "TestServiceUnderAttack"},
	{"handoff-policy", "handoff/driver.go", `if err = policy.CheckSender(&peer); err == nil && peer.Process == nil {`, `if peer.Process == nil {`, "./handoff", "TestPolicyOfPair"},
	{"handoff-silent", "handoff/control.go", `peer, err = begin(s.ctx, c,`, `s.taking.Store(true); defer s.taking.Store(false); peer, err = begin(s.ctx, c,`, "./handoff", "TestServiceSilentConnections"},
	{"handoff-mode", "handoff/control.go", `syscall.Fchmod(int(fd), 0o600)`, `syscall.Fchmod(int(fd), 0o666)`, "./handoff", "TestServiceAndStranger"},
	{"handoff-folder", "handoff/control.go", `if info.Mode().Perm()&0o002 != 0 {`, `if false {`, "./handoff", "TestStartRefusesFolder"},
	{"handoff-owner", "handoff/control.go", `if !anyOwner && owner != 0 && (owner != int64(os.Geteuid()) || !known) {`, `if _ = known; false {`, "./handoff", "TestStartRefusesFolder"},
	{"handoff-nobody", "handoff/control.go", `(owner != int64(os.Geteuid()) || !known)`, `(owner != int64(os.Geteuid()) || !known && false)`, "./handoff", "TestStartRefusesFolderOfNobody"},
	{"handoff-denied", "handoff/control.go", `case time.Since(silent) > 2*deathNotice:`, `case time.Since(silent) < 0:`, "./handoff", "TestServiceAcrossNamespaces"},
	{"handoff-file", "handoff/socket.go", `lerr != nil || info.Mode().Type() != os.ModeSocket`, `lerr != nil && info == nil`, "./handoff", "TestListenLeavesFiles"},
	{"handoff-fresh", "handoff/socket.go", `filepath.Join(filepath.Dir(address), "."+rand.Text()[:8])`, `address + ".new"; _, _ = rand.Text(), filepath.Dir`, "./handoff", "TestStrangerBesideStalePath"},
	{"handoff-state-lost", "handoff/take.go", `if !t.complete {`, `if false {`, "./handoff", "TestPythonPredecessorDies"},
	{"handoff-unread", "handoff/item.go", `if len(it.Unread) > 0 {`, `if false {`, "./handoff", "TestHandoffOfMany"},
	{"handoff-force", "handoff/machine.go", `if s.force && s.adopted {`, `if s.adopted {`, "./handoff", "TestServiceForce"},
	{"handoff-unclaimed", "handoff/service.go", `s.takeover.Serving(unclaimed...)`, `s.takeover.Serving()`, "./handoff", "TestServiceUnclaimed"},
	{"handoff-pause", "handoff/service.go", `if err := k.pause(ctx); err != nil {`, `if err := context.Cause(ctx); k == nil || err != nil {`, "./handoff", "TestServiceDuringProbation"},
	{"handoff-told", "handoff/service.go", `if !s.taking.CompareAndSwap(false, true) {`, `if false {`, "./handoff", "TestServiceTwoSuccessors"},
	{"handoff-addresses", "handoff/service.go", `s.control.close(why == Told && s.ownsForGood())`, `s.control.close(why == Told && s.ownsForGood()); s.control.unlock()`, "./handoff", "TestServiceStopKeepsItsAddresses"},
	{"handoff-late-items", "handoff/offer.go", `p.sendItems(ctx, final.Items`, `p.sendItems(p.ctx, final.Items`, "./handoff", "TestPauseEndsWithoutAcknowledgement"},
	{"handoff-cut-off", "handoff/offer.go", `<-cut`, `_ = cut`, "./handoff", "TestPauseIsCutOffInTime"},
	{"handoff-flood", "handoff/move.go", `f, err := m.receive(until)`, `_ = until; f, err := m.receive(time.Now().Add(m.limit))`, "./handoff", "TestMoveFlood"},
	{"handoff-heard", "handoff/take.go", `if errors.Is(err, scm.ErrPeerGone) {`, `if false {`, "./handoff", "TestTakeHearsWhy"},
	{"handoff-bound", "handoff/take.go", `case t.size+it.size() > maxContent:`, `case false:`, "./handoff", "TestItemsAreBounded"},
	{"handoff-killed", "handoff/machine.go", `(s == sigServing || s == sigReleased) && p.on(guardKilled):`, `false:`, "./handoff", "TestExplore$"},
	{"handoff-items", "handoff/service.go", `(c.ln == nil || c.lock == nil)`, `false`, "./handoff", "TestServiceRefusesItems"},
	{"handoff-late-death", "handoff/machine.go", `case p.on(guardTakeBack):`, `case false:`, "./handoff", "TestProbationEndsLate"},
	{"handoff-deploy", "handoff/child.go", `path, err := exec.LookPath(os.Args[0])`, `path, err := "/proc/self/exe", error(nil)`, "./handoff", "TestServiceDeploy"},
	{"handoff-drain", "handoff/drain.go", `if shutdown == nil && !d.needed() {`, `if shutdown == nil {`, "./handoff", "TestDrainAnswersNewConnection"},
	{"handoff-drain-half", "handoff/drain.go", `return h.sock == nil || !h.sock.heardSince(limit) && !sysfd.Readable(h.sock)`, `_ = sysfd.Readable; return true`, "./handoff", "TestDrainHearsHalfRequest"},
	{"handoff-queue", "handoff/serve.go", `if why == Told || s.isLeft(k) {`, `if s.isLeft(k) {`, "./handoff", "TestServiceStopServesTheQueue"},

	{"handoff-move", "handoff/halt.go", `&& (fresh || h.silent && h.deadlines <= 1)`, ``, "./handoff", "TestMoveBetweenRequests"},
	{"handoff-move-pieces", "handoff/halt.go", `fresh || h.silent && h.deadlines <= 1`, `fresh || h.deadlines <= 1`, "./handoff", "TestMovePieces"},
	{"handoff-move-plain", "handoff/drain.go", `return h.sock != nil && h.conn == h.sock && !h.waitsForGoAway()`, `return h.sock != nil && !h.waitsForGoAway()`, "./handoff", "TestMoveLeavesOthers"},
	{"handoff-move-late", "handoff/arrive.go", `c.late.since = time.Now()`, ``, "./handoff", "TestMoveDeadlines"},
	{"handoff-move-ack", "handoff/move.go", `for acked := 0; acked < m.moved+len(batch); {`, `for acked := m.moved + len(batch); acked < m.moved+len(batch); {`, "./handoff", "TestMoveHostile"},
	{"handoff-move-closed", "handoff/arrive.go", `err = a.awaitClosed(in, received)`, `err = nil`, "./handoff", "TestArriveAwaitsClosed"},
	{"handoff-move-dead", "handoff/arrive.go", `if a.maker.Wait(ctx) == nil {`, `if _ = ctx; false {`, "./handoff", "TestMoveCrash/kill/predecessor"},
	{"handoff-move-alive", "handoff/arrive.go", `if a.maker.Wait(ctx) == nil {`, `if _ = ctx; true {`, "./handoff", "TestArriveAwaitsClosed"},
	{"handoff-move-abort", "handoff/move.go", `err := m.conn.Send(newFrame(frameAbort, 0, abort(why)))`, `err := error(nil)`, "./handoff", "TestMoveHostile"},
	{"handoff-move-first", "handoff/move.go", `err := m.conn.Send(newFrame(frameAbort, 0, abort(why)))`, "for _, c := range batch {\n\t\tc.goOn()\n\t}\n\terr := m.conn.Send(newFrame(frameAbort, 0, abort(why)))", "./handoff", "TestMoveUntold"},
	{"handoff-move-untold", "handoff/move.go", `if told {`, `if told || true {`, "./handoff", "TestMoveUntold"},
	{"handoff-move-hung", "handoff/service.go", "ctx, cancel := context.WithTimeout(ctx, s.options.Deadlines.withDefaults().Answer)\n\tdefer cancel()\n\ts.arrivals", "s.arrivals", "./handoff", "TestMoveDrainOfHung"},
	{"handoff-move-lies", "handoff/arrive.go", `if l == nil || it.Kind != Connection {`, `if l == nil {`, "./handoff", "TestArriveHostile"},

	{"handoff-init", "handoff/serve.go", `if s.initial != nil && why == HandedOver {`, `if false {`, "./handoff", "TestInit$"},
	{"handoff-init-signal", "handoff/init.go", "\t\t\tdefault:\n\t\t\t\tin.forward(got)\n", "", "./handoff", "TestInit$"},
	{"handoff-init-early", "handoff/service.go", `s.initial.forward(got) // it came`, `// it came`, "./handoff", "TestInitOnProbation"},
	{"handoff-init-status", "handoff/serve.go", `exit(s.initial.stay(leave))`, `_ = s.initial.stay(leave); exit(0)`, "./handoff", "TestInit$"},
	{"handoff-init-told", "handoff/init.go", `in.pending = append(in.told, in.pending...)`, ``, "./handoff", "TestInitOnProbation"},
	{"handoff-init-dead", "handoff/init.go", `if errors.Is(in.live.Signal(sig), os.ErrProcessDone) {`, `if _ = in.live.Signal(sig); false && errors.Is(nil, os.ErrProcessDone) {`, "./handoff", "TestInitBetweenGenerations"},
	{"handoff-init-late", "handoff/init.go", `case <-signals: // SIGCHLD`, "default:\n\t\t\treturn 1\n\t\tcase <-signals: // SIGCHLD", "./handoff", "TestInitReapsLate"},

	{"handoff-given", "handoff/inherit.go", `if network == managersNetwork && f.Name == address || `, `if `, "./handoff", "TestServiceInherits"},
	{"handoff-given-mark", "handoff/socket.go", `it.Meta = []byte(managersMark)`, ``, "./handoff", "TestServiceInherits"},
	{"handoff-main-late", "handoff/machine.go", `return append([]task{{do: doLetGo}, {do: doSend, signal: sigDone}}`, `return append([]task{{do: doSend, signal: sigDone}}`, "./handoff", "TestServiceTellsManager"},
	{"handoff-main-early", "handoff/machine.go", `return []task{{do: doSend, signal: sigCommit}}`, `return []task{{do: doLetGo}, {do: doSend, signal: sigCommit}}`, "./handoff", "TestServiceMainPIDStaysOnProbation"},
	{"handoff-main-silent", "handoff/manager.go", `main: s.takeover == nil}`, `main: true}`, "./handoff", "TestServiceMainPIDInChain"},
	{"handoff-unit", "handoff/manager.go", `case its != own:`, `case false:`, "./handoff", "TestServiceUnderSystemd"},
	{"handoff-sibling", "handoff/child_linux.go", `if err != nil || string(comm) != "systemd\n" {`, `if true || err != nil || string(comm) != "systemd\n" {`, "./handoff", "TestServiceUnderSystemd"},
	{"handoff-watchdog", "handoff/manager.go", `if !strings.HasPrefix(v, watchdogPID+"=") {`, `if true {`, "./handoff", "TestServiceWatchdog"},
	{"handoff-manager-hangs", "handoff/manager.go", `limit: s.options.Deadlines.withDefaults().Answer / 4,`, `limit: time.Hour,`, "./handoff", "TestServiceManagerHangs"},
	{"handoff-face", "handoff/socket.go", `_ = sysfd.Control(l.ln, func(fd int) error { return syscall.Listen(fd, math.MaxUint16) })`, `_, _, _ = sysfd.Control, syscall.Listen, math.MaxUint16`, "./handoff", "TestServiceUnixOwner"},

	{"systemd-pid", "systemd/environ.go", `} else if for_ != pid {`, `} else if false {`, "./systemd", "TestInheritedNot"},
	{"systemd-pid-reused", "systemd/environ.go", `if have := id(); have != 0 && have != want {`, `if have := id(); have != want && false {`, "./systemd", "TestInheritedNot"},
	{"systemd-stale", "systemd/start.go", `cmd.Env = withoutListen(cmd.Environ())`, `cmd.Env = cmd.Environ()`, "./systemd", "TestStartVariables"},
	{"systemd-sealed", "systemd/sealed.go", `err = sysfd.Control(f, seal)`, `err = sysfd.Control(f, func(int) error { return nil })`, "./systemd", "TestSealed"},
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
	{"fdpass-folder", "cmd/fdpass/endpoint.go", `_ = os.Remove(folder)`, `_ = os.RemoveAll(folder)`, "./cmd/fdpass", "TestStrangerReplacesFolder"},
	{"fdpass-pid-link", "cmd/fdpass/stay_linux.go", `os.CreateTemp(filepath.Dir(k.pidFile), ".fdpass-")`, `os.OpenFile(k.pidFile+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)`, "./cmd/fdpass", "TestStrangerAtPIDFile"},
	{"fdpass-ready", "cmd/fdpass/stay_linux.go", `if !k.believes(n.Sender) {`, `if false {`, "./cmd/fdpass", "TestWaitReadyUsers"},
	{"fdpass-pid-file", "cmd/fdpass/stay_linux.go", `foreign := by != 0 && (`, `foreign := false && (`, "./cmd/fdpass", "TestWaitReadyUsers"},
	{"fdpass-inherit", "cmd/fdpass/internal/inherit/become_linux.go", `return closeFrom(end)`, `return nil`, "./cmd/fdpass", "TestInherit$"},
	{"fdpass-inherit-stale", "cmd/fdpass/internal/inherit/way.go", `; !ours(name) {`, `; name != "" {`, "./cmd/fdpass", "TestInherit$"},
	{"fdpass-inherit-pid", "cmd/fdpass/internal/inherit/become_linux.go", `p.Environment(os.Environ(), os.Getpid(), os.Getppid())`, `p.Environment(os.Environ(), os.Getppid(), os.Getppid())`, "./cmd/fdpass", "TestInherit$"},
	{"fdpass-inherit-numbers", "cmd/fdpass/internal/inherit/become_linux.go", `fd, err := unix.FcntlInt(uintptr(s.FD), unix.F_DUPFD_CLOEXEC, end)`, `fd, err := s.FD, error(nil)`, "./cmd/fdpass", "TestInheritNumbers"},

	{"fdpass-restart", "cmd/fdpass/internal/supervise/supervisor_linux.go", `s.after(g, s.Timeout, func() { s.giveUp(g, fmt.Sprintf("no READY=1 within %v", s.Timeout)) })`, `s.ready(g)`, "./cmd/fdpass", "TestRollback"},
	{"fdpass-rollback", "cmd/fdpass/internal/supervise/supervisor_linux.go", `case s.again || s.live() != nil:`, `case s.again:`, "./cmd/fdpass", "TestRollback"},
	{"fdpass-timeout", "cmd/fdpass/internal/supervise/supervisor_linux.go", `s.after(g, s.Timeout, func() { s.giveUp(g, fmt.Sprintf("no READY=1 within %v", s.Timeout)) })`, ``, "./cmd/fdpass", "TestTimeout"},
	{"fdpass-death", "cmd/fdpass/internal/supervise/supervisor_linux.go", `s.died(g, why, code(end))`, `_ = why`, "./cmd/fdpass", "TestDeath"},
	{"fdpass-notify", "cmd/fdpass/internal/supervise/supervisor_linux.go", `if !believes(&m, g.pid) {`, `if false {`, "./cmd/fdpass", "TestServeNotify/by_a_stranger"},
	{"fdpass-notify-dead", "cmd/fdpass/internal/supervise/notify_linux.go", `|| slices.Contains(UsersOf(leader), m.uid)`, `|| slices.Contains(UsersOf(leader), m.uid) || true`, "./cmd/fdpass/internal/supervise", "TestBelieves"},
	{"fdpass-service", "cmd/fdpass/internal/supervise/control.go", `err != nil && !anybody {`, `err != nil && !anybody && false {`, "./cmd/fdpass", "TestStrangerIsNoService"},
	{"fdpass-control", "cmd/fdpass/internal/supervise/control_linux.go", `ln := credentials.Listener(s.control.ln, whom)`, `_ = credentials.Listener; ln := net.Listener(s.control.ln)`, "./cmd/fdpass", "TestControlStranger"},
	{"fdpass-trial", "cmd/fdpass/internal/supervise/replace_linux.go", `case !end.Exited() || end.ExitStatus() != 0 || !ok:`, `case !ok && false:`, "./cmd/fdpass", "TestReplaceRefused"},
	{"fdpass-replace", "cmd/fdpass/internal/supervise/replace_linux.go", `s.generations = append(s.generations, g)`, ``, "./cmd/fdpass", "TestReplace$"},
	{"fdpass-guard", "cmd/fdpass/internal/supervise/guard_linux.go", `_ = unix.Kill(pid, syscall.Signal(numbers[0]))`, `_ = pid`, "./cmd/fdpass", "TestReplaceEnds"},

	{"fdpass-hold", "cmd/fdpass/internal/holder/server.go", `if !c.access.may(Retrieve, r.name) || `, `if `, "./cmd/fdpass", "TestHoldAccess"},
	{"fdpass-quota", "cmd/fdpass/internal/holder/store.go", `case s.owned[owner]+len(fds) > quota:`, `case quota < 0:`, "./cmd/fdpass", "TestHoldAccess"},
	{"fdpass-freeze", "cmd/fdpass/internal/holder/server.go", "s.setLocked(frozen)\n", "", "./cmd/fdpass/internal/holder", "TestPassOn$"},
	{"fdpass-pass", "cmd/fdpass/internal/holder/service.go", `server.set(handed)`, `_ = handed`, "./cmd/fdpass", "TestTakeoverUnderLoad"},
	{"fdpass-left", "cmd/fdpass/internal/holder/server.go", `c.left(e, err == nil)`, `c.left(e, true)`, "./cmd/fdpass/internal/holder", "TestRetrieveFails"},
	{"fdpass-own", "cmd/fdpass/internal/holder/server.go", `case c.isOwn(fds[i]):`, `case false && c.isOwn(fds[i]):`, "./cmd/fdpass/internal/holder", "TestOwnConnection"},
	{"fdpass-transfer", "cmd/fdpass/internal/holder/transfer.go", `rollBack(destination, all[:i],`, `rollBack(destination, all[:0*i],`, "./cmd/fdpass", "TestTransferIsWhole"},
}

func main() {
	dir, err := os.MkdirTemp("", "takeout-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	failed := false
	for _, p := range protections {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], p.name) {
			continue
		}
		begin := time.Now()
		if err := p.takeOut(dir); err != nil {
			failed = true
			fmt.Printf("%-22s NOT HELD by %s: %v\n", p.name, p.test, err)
		} else {
			fmt.Printf("%-22s held by %s (%.1f s)\n", p.name, p.test, time.Since(begin).Seconds())
		}
	}
	_ = os.RemoveAll(dir)
	if failed {
		os.Exit(1)
	}
}

// takeOut returns nil if the test passes with the protection and fails without it.
func (p *protection) takeOut(dir string) error {
	b, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(b), p.line); n != 1 {
		return fmt.Errorf("%s has the line %d times", p.file, n)
	}
	if err := p.control(filepath.Join(dir, "control")); err != nil {
		return err
	}
	dir = filepath.Join(dir, p.name)
	defer os.RemoveAll(dir)
	overlay, err := replace(dir, p.file, strings.Replace(string(b), p.line, p.without, 1))
	if err != nil {
		return err
	}
	// The programs that the tests build are to be without it too.
	_ = os.Setenv("GOFLAGS", strings.TrimSpace(goflags+" -overlay="+overlay))
	defer os.Setenv("GOFLAGS", goflags)
	for _, pkg := range strings.Fields(p.pkg) {
		program, err := build(dir, pkg)
		if err != nil {
			return err
		}
		if _, err := run(program, pkg, p.test, "-test.failfast"); err != nil {
			return nil
		}
	}
	return fmt.Errorf("the test passes")
}

var goflags = os.Getenv("GOFLAGS")

// replace writes the overlay with which the compiler sees text in place of a file.
func replace(dir, file, text string) (overlay string, err error) {
	without, overlay := filepath.Join(dir, "without.go"), filepath.Join(dir, "overlay.json")
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{path: without}})
	if err != nil {
		return "", err
	}
	return overlay, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(without, []byte(text), 0o600), os.WriteFile(overlay, b, 0o600))
}

// controls has how the tests ended with the code as it is, by package and name; programs has the tests of each
// package.
var (
	controls = map[string]error{}
	programs = map[string]string{}
)

// control returns nil if the test passes with the code as it is. One that is skipped does not.
func (p *protection) control(dir string) error {
	for _, pkg := range strings.Fields(p.pkg) {
		key := pkg + " " + p.test
		if _, done := controls[key]; !done {
			controls[key] = control(dir, pkg, p.test)
		}
		if err := controls[key]; err != nil {
			return fmt.Errorf("with the code as it is: %w", err)
		}
	}
	return nil
}

func control(dir, pkg, test string) (err error) {
	if programs[pkg] == "" {
		if programs[pkg], err = build(dir, pkg); err != nil {
			return err
		}
	}
	out, err := run(programs[pkg], pkg, test, "-test.v")
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s", err, out)
	case !strings.Contains(out, "\n--- PASS: "):
		return fmt.Errorf("the test does not run: %s", out)
	}
	return nil
}

// build builds the tests of a package.
func build(dir, pkg string) (program string, err error) {
	program = filepath.Join(dir, strings.ReplaceAll(pkg, "/", "_")+".test")
	if out, err := exec.Command("go", "test", "-c", "-ldflags=-w", "-o", program, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("it does not compile: %s", out)
	}
	return program, nil
}

// run runs a test. The error is that it fails.
func run(program, pkg, test string, flags ...string) (output string, err error) {
	cmd := exec.Command(program, append(flags, "-test.run="+test, "-test.timeout=90s")...)
	cmd.Dir = pkg
	cmd.WaitDelay = 10 * time.Second // a test that fails may leave a process behind
	out, err := cmd.CombinedOutput()
	return string(out), err
}
