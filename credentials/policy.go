//go:build unix

package credentials

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// A Policy decides whom to talk to. The zero Policy refuses everybody. Policies are values: keep
// them, combine them, share them between goroutines.
type Policy struct {
	name string
	test func(*subject) (bool, error)
}

// subject is who is judged.
type subject struct {
	cred   Cred
	groups func() ([]uint32, error) // supplementary
}

// SameUser passes peers whose user id is the effective one of this process.
func SameUser() Policy {
	return Policy{"the same user", func(s *subject) (bool, error) {
		return s.isUser(uint32(os.Geteuid())), nil
	}}
}

// Root passes peers with user id 0 of this user namespace.
func Root() Policy {
	return Policy{"root", func(s *subject) (bool, error) { return s.isUser(0), nil }}
}

// UID passes peers with one of the user ids.
func UID(ids ...uint32) Policy {
	ids = slices.Clone(ids)
	return Policy{list("uid", ids), func(s *subject) (bool, error) {
		return slices.ContainsFunc(ids, s.isUser), nil
	}}
}

// GID passes peers that have one of the group ids, as primary or as supplementary group.
func GID(ids ...uint32) Policy {
	ids = slices.Clone(ids)
	return Policy{list("gid", ids), func(s *subject) (bool, error) {
		member := func(gid uint32) bool { return isMappedGroup(gid) && slices.Contains(ids, gid) }
		if member(s.cred.GID) {
			return true, nil
		}
		groups, err := s.groups()
		return slices.ContainsFunc(groups, member), err
	}}
}

// AnyOf passes peers that one of the policies passes.
func AnyOf(policies ...Policy) Policy {
	policies = slices.Clone(policies)
	return Policy{join(policies, " or "), func(s *subject) (bool, error) {
		var failed error
		for _, p := range policies {
			ok, err := p.ask(s)
			if ok && err == nil {
				return true, nil
			}
			if failed == nil {
				failed = err
			}
		}
		return false, failed
	}}
}

// AllOf passes peers that all of the policies pass, and nobody if there are none.
func AllOf(policies ...Policy) Policy {
	policies = slices.Clone(policies)
	return Policy{join(policies, " and "), func(s *subject) (bool, error) {
		for _, p := range policies {
			if ok, err := p.ask(s); !ok || err != nil {
				return false, err
			}
		}
		return len(policies) > 0, nil
	}}
}

// Not passes peers that p refuses. If it cannot be found out, it passes nobody.
func Not(p Policy) Policy {
	return Policy{"not " + p.String(), func(s *subject) (bool, error) {
		ok, err := p.ask(s)
		return !ok && err == nil, err
	}}
}

// String says what the policy asks for: "(the same user or root)".
func (p Policy) String() string {
	if p.test == nil {
		return "nobody"
	}
	return p.name
}

// Check judges the peer of a connection, who it was when it connected ([Peer], [PeerGroups]), and
// returns nil if it passes. If not, the error names the peer and the rule and matches [ErrDenied] and
// os.ErrPermission. If the peer cannot be found out, it is refused with the reason: [ErrNoPeer], an
// errno. It borrows c and does not block.
func (p Policy) Check(c syscall.Conn) error {
	cred, err := Peer(c)
	if err != nil {
		return err
	}
	return p.check(&subject{cred: cred, groups: func() ([]uint32, error) { return PeerGroups(c) }})
}

// CheckSender judges the writer of a message or the other end of an [Exchange], as Check does. The
// stamp has no supplementary groups, so [GID] looks at the primary one only, and behind [Not] passes
// nobody.
func (p Policy) CheckSender(s *Sender) error {
	if s == nil {
		return &deniedError{policy: p, cause: ErrNoIdentity}
	}
	return p.check(&subject{cred: s.Cred, groups: func() ([]uint32, error) { return nil, errNoGroups }})
}

var errNoGroups = fmt.Errorf("a message is not stamped with supplementary groups: %w", ErrNoIdentity)

func (p Policy) check(s *subject) error {
	ok, err := p.ask(s)
	if ok && err == nil {
		return nil
	}
	return &deniedError{policy: p, peer: s.cred, cause: err}
}

func (p Policy) ask(s *subject) (bool, error) {
	if p.test == nil {
		return false, nil
	}
	return p.test(s)
}

func (s *subject) isUser(uid uint32) bool { return s.cred.UID == uid && isMapped(uid) }

// deniedError says who was refused by which rule.
type deniedError struct {
	policy Policy
	peer   Cred
	cause  error
}

func (e *deniedError) Error() string {
	text := fmt.Sprintf("credentials: refused %v: it is not %v", e.peer, e.policy)
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *deniedError) Unwrap() error { return e.cause }

func (e *deniedError) Is(target error) bool { return target == ErrDenied || target == os.ErrPermission }

func list(what string, ids []uint32) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = fmt.Sprintf("%s %d", what, id)
	}
	return enumerate(names, " or ")
}

func join(policies []Policy, word string) string {
	names := make([]string, len(policies))
	for i, p := range policies {
		names[i] = p.String()
	}
	return enumerate(names, word)
}

func enumerate(names []string, word string) string {
	switch len(names) {
	case 0:
		return Policy{}.String()
	case 1:
		return names[0]
	}
	return "(" + strings.Join(names, word) + ")"
}
