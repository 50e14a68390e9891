//go:build linux

package holder

import (
	"os"
	"strings"
	"testing"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestRules(t *testing.T) {
	for _, s := range []string{"", "uid:1", "uid:1=", "uid:1=fly", "who=store", "uid:nobody-has-this-name=store", "gid:-1=all", "uid:1=store:(", "uid:99999999999=all"} {
		if _, err := ParseRule(s); err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("%q: %v", s, err)
		}
	}
	r, err := ParseRule("uid:root=store,retrieve:^web:[0-9]+$")
	if err != nil {
		t.Fatal(err)
	}
	a := access{r}
	for _, c := range []struct {
		right Right
		name  string
		may   bool
	}{
		{Store, "web:1", true}, {Retrieve, "web:77", true}, {Store, "web:x", false}, {Store, "aweb:1", false},
		{List, "web:1", false}, {Dump, "web:1", false}, {Restore, "web:1", false},
	} {
		if a.may(c.right, c.name) != c.may {
			t.Errorf("%s %s: %v", c.right, c.name, !c.may)
		}
	}
	if !a.has(Store) || a.has(List) {
		t.Error("rights for some names")
	}
}

// The same user has all rights; the rules are for others.
func TestAccessOfSameUser(t *testing.T) {
	p, q, err := scm.Pair(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	defer q.Close()
	a := accessOf(p, nil)
	for _, right := range allRights {
		if !a.may(right, "anything") {
			t.Errorf("uid %d may not %s", os.Geteuid(), right)
		}
	}
}
