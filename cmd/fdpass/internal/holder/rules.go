//go:build unix

package holder

import (
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
)

// A Right is something that a client may do with names that match.
type Right string

// The rights.
const (
	Store    Right = "store"    // and delete
	Retrieve Right = "retrieve" // with Store it may also take away what it retrieves
	List     Right = "list"     // sees these names
	Dump     Right = "dump"     // gets all of these names
	Restore  Right = "restore"  // stores many at once
)

var allRights = []Right{Store, Retrieve, List, Dump, Restore}

// A Rule gives rights to users.
type Rule struct {
	who    credentials.Policy
	rights []Right
	names  *regexp.Regexp // nil is all
}

// ParseRule reads "uid:1000=store,retrieve:^web/": who, what, and a regular expression that the names
// must match (RE2 syntax, anywhere in the name unless anchored), which may be left out. Who is uid: or
// gid: with a number or a name, a group being the primary or a supplementary one, or "any"; what is
// one or several of store, retrieve, list, dump, restore, or "all".
func ParseRule(s string) (Rule, error) {
	r, err := parseRule(s)
	return r, errors.WithMessagef(err, "rule %q", s)
}

func parseRule(s string) (r Rule, err error) {
	who, what, ok := strings.Cut(s, "=")
	if !ok {
		return r, errors.New(`it is WHO=RIGHTS[:REGEXP], such as "uid:1000=store,retrieve:^web/"`)
	}
	if r.who, err = parseWho(who); err != nil {
		return r, err
	}
	what, names, restricted := strings.Cut(what, ":")
	if restricted {
		if r.names, err = regexp.Compile(names); err != nil {
			return r, err
		}
	}
	for _, right := range strings.Split(what, ",") {
		switch {
		case right == "all":
			r.rights = append(r.rights, allRights...)
		case slices.Contains(allRights, Right(right)):
			r.rights = append(r.rights, Right(right))
		default:
			return r, errors.Errorf("%q is none of store, retrieve, list, dump, restore, all", right)
		}
	}
	return r, nil
}

func parseWho(s string) (credentials.Policy, error) {
	kind, id, _ := strings.Cut(s, ":")
	switch {
	case s == "any":
		return credentials.Not(credentials.Policy{}), nil
	case kind == "uid":
		n, err := number(id, func() (string, error) {
			u, err := user.Lookup(id)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		return credentials.UID(n), err
	case kind == "gid":
		n, err := number(id, func() (string, error) {
			g, err := user.LookupGroup(id)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		return credentials.GID(n), err
	}
	return credentials.Policy{}, errors.Errorf("%q is none of uid:ID, gid:ID, any", s)
}

func number(id string, lookup func() (string, error)) (uint32, error) {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		if id, err = lookup(); err != nil {
			return 0, err
		}
		n, err = strconv.ParseUint(id, 10, 32)
	}
	return uint32(n), err
}

// access is what one client may do.
type access []Rule

// accessOf returns the rights of the peer of c: all for the same user and root, which could help
// themselves anyway, and what the rules say for others.
func accessOf(c syscall.Conn, rules []Rule) (a access) {
	if owner.Check(c) == nil {
		return access{{rights: allRights}}
	}
	for _, r := range rules {
		if r.who.Check(c) == nil {
			a = append(a, r)
		}
	}
	return a
}

var owner = credentials.AnyOf(credentials.SameUser(), credentials.Root())

// may reports whether the client has the right for this name.
func (a access) may(right Right, name string) bool {
	return slices.ContainsFunc(a, func(r Rule) bool {
		return slices.Contains(r.rights, right) && (r.names == nil || r.names.MatchString(name))
	})
}

// has reports whether the client has the right for some names.
func (a access) has(right Right) bool {
	return slices.ContainsFunc(a, func(r Rule) bool { return slices.Contains(r.rights, right) })
}
