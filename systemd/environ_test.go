//go:build linux

package systemd

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// variables are the variables of a test, in the order PID, PIDFDID, FDS, FDNAMES; "-" is one that is not set.
func variables(values ...string) func(string) (string, bool) {
	names := []string{listenPID, listenPIDFDID, listenFDs, listenFDNames}
	return func(name string) (string, bool) {
		i := slices.Index(names, name)
		if i >= len(values) || values[i] == "-" {
			return "", false
		}
		return values[i], true
	}
}

func TestParseListen(t *testing.T) {
	for _, c := range []struct {
		what   string
		values []string
		n      int
		names  string
		err    string // the variable that the error names
	}{
		{"nothing", nil, 0, "", ""},
		{"all", []string{"77", "4711", "2", "a:b"}, 2, "a:b", ""},
		{"no names", []string{"77", "-", "2"}, 2, "", ""},
		{"one name twice", []string{"77", "-", "2", "a:a"}, 2, "a:a", ""},
		{"empty names", []string{"77", "-", "2", ":"}, 2, ":", ""},
		{"no number", []string{"77"}, 0, "", ""},
		{"none", []string{"77", "-", "0", ""}, 0, "", ""},
		{"no pid", []string{"-", "-", "2", "a:b"}, 0, "", ""},
		{"another pid", []string{"78", "-", "2", "a:b"}, 0, "", ""},
		{"another pid, malformed rest", []string{"78", "x", "x", "a"}, 0, "", ""},
		{"the pid was used again", []string{"77", "4712", "2", "a:b"}, 0, "", ""},
		{"malformed pid", []string{"77 ", "-", "2"}, 0, "", listenPID},
		{"malformed pid", []string{"", "-", "2"}, 0, "", listenPID},
		{"malformed pid", []string{"-77", "-", "2"}, 0, "", listenPID},
		{"malformed id", []string{"77", "-1", "2"}, 0, "", listenPIDFDID},
		{"malformed number", []string{"77", "-", "two"}, 0, "", listenFDs},
		{"negative number", []string{"77", "-", "-1"}, 0, "", listenFDs},
		{"numbers beyond any", []string{"77", "-", "2147483645"}, 0, "", listenFDs},
		{"a long value", []string{"77", "-", strings.Repeat("9", 4000)}, 0, "", listenFDs},
		{"too few names", []string{"77", "-", "2", "a"}, 0, "", listenFDNames},
		{"too many names", []string{"77", "-", "2", "a:b:c"}, 0, "", listenFDNames},
	} {
		p, err := parseListen(variables(c.values...), 77, func() uint64 { return 4711 })
		if p.n != c.n || strings.Join(p.names, ":") != c.names {
			t.Errorf("%s: %d descriptors %q, want %d %q", c.what, p.n, p.names, c.n, c.names)
		}
		if c.err == "" && err != nil || c.err != "" && !errors.Is(err, ErrEnvironment) {
			t.Errorf("%s: %v", c.what, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.err) || len(err.Error()) > 150) {
			t.Errorf("%s: the error does not say %s: %v", c.what, c.err, err)
		}
	}
	// A kernel without numbers for pidfds cannot compare.
	if p, err := parseListen(variables("77", "1", "1"), 77, func() uint64 { return 0 }); p.n != 1 || err != nil {
		t.Errorf("without an id: %v, %v", p, err)
	}
}

func TestEnviron(t *testing.T) {
	pid := os.Getpid()
	old := []string{"A=1", "LISTEN_FDS=9", "LISTEN_FDNAMES=x", "LISTEN_PID=1", "LISTEN_PIDFDID=1", "LISTEN=1"}
	kept := slices.Clone(old)
	env := Environ(old, pid, "a", "b")
	if !slices.Equal(old, kept) {
		t.Errorf("the argument became %q", old)
	}
	want := []string{"A=1", "LISTEN=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b", "LISTEN_PID=" + strconv.Itoa(pid)}
	if id := pidfdID(pid); id != 0 {
		want = append(want, "LISTEN_PIDFDID="+strconv.FormatUint(id, 10))
	}
	if !slices.Equal(env, want) {
		t.Errorf("%q, want %q", env, want)
	}
	if env := Environ(old, pid); !slices.Equal(env, []string{"A=1", "LISTEN=1"}) {
		t.Errorf("without names: %q", env)
	}
}

// What Environ writes, parseListen reads; and whatever it reads, it never asks for more names than there
// are bytes.
func FuzzParseListen(f *testing.F) {
	f.Add("77", "4711", "2", "a:b")
	f.Add("77", "-", "1", "web.socket")
	f.Add("78", "-", "1", "connection")
	f.Add("77", "-", "3", "stored:stored:state")
	f.Add("077", "0x1", "+1", ":")
	f.Fuzz(func(t *testing.T, pid, id, n, names string) {
		p, err := parseListen(variables(pid, id, n, names), 77, func() uint64 { return 4711 })
		if err != nil {
			if !errors.Is(err, ErrEnvironment) || p.n != 0 || p.names != nil {
				t.Errorf("%v, %v", p, err)
			}
			return
		}
		if p.n < 0 || p.names != nil && len(p.names) != p.n {
			t.Errorf("%v", p)
		}
		if p.n == 0 || p.names == nil {
			return
		}
		env := Environ(nil, 77, p.names...)
		again, err := parseListen(func(name string) (string, bool) {
			for _, v := range env {
				if value, ok := strings.CutPrefix(v, name+"="); ok && name != listenPIDFDID {
					return value, true
				}
			}
			return "", false
		}, 77, nil)
		if err != nil || again.n != p.n || !slices.Equal(again.names, p.names) {
			t.Errorf("%v became %v, %v", p, again, err)
		}
	})
}
