//go:build linux

package credentials_test

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// Rules about uid 4200, gid 4201, supplementary groups 4202 and 4203.
var rules = []struct {
	policy credentials.Policy
	text   string
	peer   bool // passes the peer of a connection
	sender bool // passes the sender of a message, whose supplementary groups nobody knows
}{
	{credentials.Policy{}, "nobody", false, false},
	{credentials.UID(), "nobody", false, false},
	{credentials.UID(4200), "uid 4200", true, true},
	{credentials.UID(7, 4200), "(uid 7 or uid 4200)", true, true},
	{credentials.UID(4201), "uid 4201", false, false},
	{credentials.Root(), "root", false, false},
	{credentials.GID(), "nobody", false, false},
	{credentials.GID(4201), "gid 4201", true, true},
	{credentials.GID(4203), "gid 4203", true, false},
	{credentials.GID(7, 4202), "(gid 7 or gid 4202)", true, false},
	{credentials.GID(4200), "gid 4200", false, false},

	{credentials.AnyOf(), "nobody", false, false},
	{credentials.AnyOf(credentials.Root()), "root", false, false},
	{credentials.AnyOf(credentials.Root(), credentials.UID(4200)), "(root or uid 4200)", true, true},
	{credentials.AnyOf(credentials.GID(4203), credentials.UID(4200)), "(gid 4203 or uid 4200)", true, true},
	{credentials.AnyOf(credentials.Policy{}, credentials.UID(4200)), "(nobody or uid 4200)", true, true},

	{credentials.AllOf(), "nobody", false, false},
	{credentials.AllOf(credentials.UID(4200)), "uid 4200", true, true},
	{credentials.AllOf(credentials.UID(4200), credentials.GID(4201)), "(uid 4200 and gid 4201)", true, true},
	{credentials.AllOf(credentials.UID(4200), credentials.GID(4203)), "(uid 4200 and gid 4203)", true, false},
	{credentials.AllOf(credentials.UID(4200), credentials.Root()), "(uid 4200 and root)", false, false},
	{credentials.AllOf(credentials.UID(4200), credentials.Policy{}), "(uid 4200 and nobody)", false, false},

	{credentials.Not(credentials.Policy{}), "not nobody", true, true},
	{credentials.Not(credentials.Root()), "not root", true, true},
	{credentials.Not(credentials.UID(4200)), "not uid 4200", false, false},
	{credentials.Not(credentials.Not(credentials.UID(4200))), "not not uid 4200", true, true},
	{credentials.Not(credentials.GID(4203)), "not gid 4203", false, false},
	{credentials.Not(credentials.GID(4201)), "not gid 4201", false, false},
	{credentials.Not(credentials.GID(4299)), "not gid 4299", true, false}, // who knows?
	{credentials.Not(credentials.Not(credentials.GID(4203))), "not not gid 4203", true, false},
	{credentials.Not(credentials.AnyOf(credentials.GID(4299), credentials.Root())), "not (gid 4299 or root)", true, false},
	{credentials.Not(credentials.AllOf(credentials.GID(4299), credentials.Root())), "not (gid 4299 and root)", true, false},
	{credentials.Not(credentials.AllOf(credentials.Root(), credentials.GID(4299))), "not (root and gid 4299)", true, true},
	{credentials.AnyOf(credentials.Not(credentials.GID(4299)), credentials.UID(4200)), "(not gid 4299 or uid 4200)", true, true},
}

func TestPolicyCheck(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	child, conn := dialled(t, peer.CommandAs(t, 4200, 4201, []uint32{4202, 4203}), "unix")
	cred := credentials.Cred{PID: child.pid(), UID: 4200, GID: 4201}
	for _, rule := range rules {
		judged(t, rule.policy, rule.text, rule.policy.Check(conn), rule.peer, cred)
	}
	judged(t, credentials.SameUser(), "the same user", credentials.SameUser().Check(conn), false, cred)
}

func TestPolicyCheckSender(t *testing.T) {
	s := &credentials.Sender{Cred: credentials.Cred{PID: 4299, UID: 4200, GID: 4201}}
	for _, rule := range rules {
		judged(t, rule.policy, rule.text, rule.policy.CheckSender(s), rule.sender, s.Cred)
	}
	for _, rule := range []credentials.Policy{credentials.GID(4203), credentials.Not(credentials.GID(4203))} {
		matches(t, rule.CheckSender(s), credentials.ErrDenied, credentials.ErrNoIdentity)
	}
}

func judged(t *testing.T, p credentials.Policy, text string, err error, want bool, who credentials.Cred) {
	t.Helper()
	if p.String() != text {
		t.Errorf("%q calls itself %q", text, p)
	}
	if (err == nil) != want {
		t.Errorf("%s: got %v, want to pass: %v", text, err, want)
	}
	if err == nil {
		return
	}
	matches(t, err, credentials.ErrDenied, os.ErrPermission)
	if !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), who.String()) {
		t.Errorf("the error %q does not name the rule %q and %v", err, text, who)
	}
}

func TestPolicySameUser(t *testing.T) {
	testutil.NoLeaks(t)
	a, _ := pair(t, socketpair.Stream)
	same := credentials.SameUser()
	if err := same.Check(a); err != nil {
		t.Error(err)
	}
	s := &credentials.Sender{Cred: self()}
	if err := same.CheckSender(s); err != nil {
		t.Error(err)
	}
	if root := credentials.Root().CheckSender(s); (root == nil) != (os.Getuid() == 0) {
		t.Errorf("Root says %v to uid %d", root, os.Getuid())
	}
	matches(t, credentials.Not(same).CheckSender(s), credentials.ErrDenied)
}

// Nobody is not a user, whatever number stands for that.
func TestPolicyOfNobody(t *testing.T) {
	matches(t, credentials.SameUser().CheckSender(nil), credentials.ErrDenied, credentials.ErrNoIdentity, os.ErrPermission)
	none := &credentials.Sender{Cred: credentials.Cred{UID: ^uint32(0), GID: ^uint32(0)}}
	for _, p := range []credentials.Policy{credentials.UID(^uint32(0)), credentials.GID(^uint32(0)), credentials.Root()} {
		matches(t, p.CheckSender(none), credentials.ErrDenied)
	}
}

// A user namespace can have a number for every user and not for every group.
func TestPolicyOfGroupWithoutNumber(t *testing.T) {
	needNamespaces(t)
	testutil.NoLeaks(t)
	testutil.NeedRoot(t)
	all := uint64(^uint32(0))
	if uint64(int(all)) != all {
		t.Skip("syscall.SysProcIDMap has no room for all ids on this architecture")
	}
	if own, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(own), strconv.FormatUint(all, 10)) {
		t.Skipf("this root has not all users, but those of a namespace: %s", own)
	}
	cmd := isolate(peer.Command(t), unix.CLONE_NEWUSER)
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{Size: int(all)}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 4301, HostID: 4301, Size: 1}}
	child, _ := startWith(t, cmd, socketpair.Stream)
	if got, want := child.do("peer"), (credentials.Cred{PID: os.Getpid(), GID: 65534}).String(); got != want {
		t.Fatalf("inside, the peer is %s, want %s", got, want)
	}
	child.do("samepeer")
	if answer := child.ask("peergroup 65534"); !strings.Contains(answer, "it is not gid 65534") {
		t.Errorf("inside, GID says %q", answer)
	}
}

// Who cannot be found out is refused, also by a Not, and for the reason why.
func TestPolicyWithoutPeer(t *testing.T) {
	noPeers(t, func(t *testing.T, c syscall.Conn, want error) {
		matches(t, credentials.Root().Check(c), want)
		matches(t, credentials.Not(credentials.Policy{}).Check(c), want)
	})
}

// A policy does not change with what it was made of.
func TestPolicyKeepsItsRules(t *testing.T) {
	ids := []uint32{4200}
	policies := []credentials.Policy{credentials.UID(ids...), credentials.GID(ids...)}
	all, any := credentials.AllOf(policies...), credentials.AnyOf(policies...)
	ids[0], policies[0], policies[1] = 0, credentials.Policy{}, credentials.Policy{}
	s := &credentials.Sender{Cred: credentials.Cred{PID: 1, UID: 4200, GID: 4200}}
	for _, p := range []credentials.Policy{all, any} {
		if err := p.CheckSender(s); err != nil {
			t.Error(err)
		}
	}
}

func TestCred(t *testing.T) {
	rows := []struct {
		cred  credentials.Cred
		known bool
		text  string
	}{
		{credentials.Cred{PID: 71, UID: 1000, GID: 100}, true, "pid 71 uid 1000 gid 100"},
		{credentials.Cred{PID: 71}, true, "pid 71 uid 0 gid 0"},
		{credentials.Cred{}, false, "pid unknown uid 0 gid 0"}, // the end of a stream
		{credentials.Cred{UID: 65534, GID: 65534}, false, "pid unknown uid 65534 gid 65534"},
		{credentials.Cred{UID: ^uint32(0), GID: ^uint32(0)}, false, "pid unknown uid 4294967295 gid 4294967295"},
		{credentials.Cred{PID: 71, UID: ^uint32(0)}, false, "pid 71 uid 4294967295 gid 0"},
	}
	for _, row := range rows {
		if got := row.cred.Known(); got != row.known {
			t.Errorf("%v: known is %v", row.cred, got)
		}
		if got := row.cred.String(); got != row.text {
			t.Errorf("got %q, want %q", got, row.text)
		}
	}
}

func TestNewSender(t *testing.T) {
	testutil.NoLeaks(t)
	pidfd := func() *os.File {
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "pidfd")
	}
	s := credentials.NewSender(self(), pidfd())
	if s == nil || s.Cred != self() || !s.Process.Alive() || s.Process.PID() != os.Getpid() {
		t.Errorf("got %+v", s)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s = credentials.NewSender(self(), nil)
	if s == nil || s.Process != nil {
		t.Errorf("got %+v", s)
	}
	for _, stamp := range []credentials.Cred{{}, {UID: 65534, GID: 65534}, {PID: 7, UID: ^uint32(0)}} {
		if s := credentials.NewSender(stamp, pidfd()); s != nil { // the pidfd is closed
			t.Errorf("%v became %+v", stamp, s)
		}
		s := credentials.NewSender(stamp, nil)
		if err := s.Close(); s != nil || err != nil {
			t.Errorf("%v became %+v, %v", stamp, s, err)
		}
	}
}
