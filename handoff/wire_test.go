//go:build linux

package handoff

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func TestParseHeader(t *testing.T) {
	for _, c := range []struct {
		header     string
		kind       frameType
		nfds, size int
		ok         bool
	}{
		{"\x03\x00\x00\x02\x00\x00\x00\x10", frameItems, 2, 16, true},
		{"\x03\xff\x00\x02\x00\x00\x00\x10", frameItems, 2, 16, true}, // the second byte is for later
		{"\xff\x00\x00\x00\x00\x00\x00\x00", 255, 0, 0, true},
		{"\x03\x00\x00\xfd\x00\x00\xf0\x00", frameItems, 253, maxPayload, true},
		{"\x03\x00\x00\xfe\x00\x00\x00\x00", 0, 0, 0, false},
		{"\x03\x00\x00\x00\x00\x00\xf0\x01", 0, 0, 0, false},
		{"\x03\x00\xff\xff\xff\xff\xff\xff", 0, 0, 0, false},
	} {
		kind, nfds, size, err := parseHeader([]byte(c.header))
		if kind != c.kind || nfds != c.nfds || size != c.size || (err == nil) != c.ok || err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%x: %d %d %d %v", c.header, kind, nfds, size, err)
		}
	}
	for kind := frameHello; kind < frameTypes; kind++ {
		got, nfds, size, err := parseHeader(newFrame(kind, 7, []byte("payload")))
		if got != kind || nfds != 7 || size != 7 || err != nil {
			t.Errorf("%d: %d %d %d %v", kind, got, nfds, size, err)
		}
		if s := signals[kind]; s != sigNone && frameOf(s) != kind {
			t.Errorf("%v is frame %d, not %d", s, frameOf(s), kind)
		}
	}
}

func TestRecords(t *testing.T) {
	one := appendString(nil, 900, "value")
	for _, c := range []struct {
		what string
		b    []byte
		want string
		ok   bool
	}{
		{"nothing", nil, "", true},
		{"one", one, "900=value ", true},
		{"two", append(bytes.Clone(one), appendBytes(nil, 1, nil)...), "900=value 1= ", true},
		{"half a header", one[:5], "", false},
		{"no value", one[:6], "", false},
		{"half a value", one[:8], "", false},
		{"rubbish after one", append(bytes.Clone(one), 0), "900=value ", false},
		{"a length beyond all", []byte{0, 1, 0xff, 0xff, 0xff, 0xff}, "", false},
	} {
		got := ""
		err := records(c.b, func(g tag, v []byte) error { got += fmt.Sprintf("%d=%s ", g, v); return nil })
		if got != c.want || (err == nil) != c.ok || err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %q, %v", c.what, got, err)
		}
	}
	no := errors.New("no")
	if err := records(one, func(tag, []byte) error { return no }); err != no {
		t.Errorf("the callback's error became %v", err)
	}
}

func TestParseHello(t *testing.T) {
	versions := func(v string) []byte { return appendString(nil, tagVersions, v) }
	with := func(b []byte, name string) []byte { return appendString(b, tagName, name) }
	long := strings.Repeat("x", maxName)
	for _, c := range []struct {
		what string
		b    []byte
		name string
		want error
	}{
		{"ours", hello("web", 9), "web", nil},
		{"the longest name", hello(long, 9), long, nil},
		{"a longer name", hello(long+"x", 9), long + "x", ErrProtocol},
		{"unknown records", appendString(appendString(hello("web", 9), 77, "?"), tagMeta, "?"), "web", nil},
		{"versions 0 to 7", with(versions("\x00\x00\x00\x07"), "web"), "web", nil},
		{"versions 2 to 3", with(versions("\x00\x02\x00\x03"), "web"), "web", ErrVersion},
		{"version 0", with(versions("\x00\x00\x00\x00"), "web"), "web", ErrVersion},
		{"versions backwards", with(versions("\x00\x02\x00\x00"), "web"), "web", ErrVersion},
		{"no versions", with(nil, "web"), "web", ErrVersion},
		{"half a version", with(versions("\x00\x01"), "web"), "web", ErrProtocol},
		{"another name", hello("mail", 9), "web", ErrName},
		{"no name", versions("\x00\x01\x00\x01"), "web", ErrName},
		{"a short generation", appendString(hello("web", 9), tagGeneration, "1"), "web", ErrProtocol},
		{"empty", nil, "web", ErrVersion},
		{"cut off", hello("web", 9)[:20], "web", ErrProtocol},
	} {
		n, err := parseHello(c.b, c.name)
		if !errors.Is(err, c.want) || c.want == nil && err != nil || err != nil && n != 0 {
			t.Errorf("%s: %d, %v", c.what, n, err)
		}
	}
	if n, err := parseHello(hello("web", 1<<63+5), "web"); n != 1<<63+5 || err != nil {
		t.Errorf("generation %d, %v", n, err)
	}
}

func TestAbortReason(t *testing.T) {
	if b := abort(nil); b != nil || parseAbort(b) != nil {
		t.Error("no reason became one")
	}
	if err := parseAbort(abort(errors.New("no \x1b disk"))); err == nil || err.Error() != `the other side says: "no \x1b disk"` {
		t.Error(err)
	}
	if b := abort(errors.New(strings.Repeat("x", 5000))); len(b) != 6+maxReason {
		t.Errorf("%d bytes", len(b))
	}
	if err := parseAbort(appendString(nil, tagReason, strings.Repeat("x", maxPayload-6))); len(err.Error()) > maxReason+100 {
		t.Errorf("a reason of %d bytes", len(err.Error()))
	}
	if err := parseAbort([]byte("rubbish")); err != nil {
		t.Error(err)
	}
}

func TestCountOf(t *testing.T) {
	for _, c := range []struct {
		what string
		b    []byte
		want int
		ok   bool
	}{
		{"none", appendUint32(nil, tagCount, 0), 0, true},
		{"all", appendUint32(nil, tagCount, maxItems), maxItems, true},
		{"one more", appendUint32(nil, tagCount, maxItems+1), 0, false},
		{"2^31", appendUint32(nil, tagCount, 1<<31), 0, false},
		{"2^32-1", appendUint32(nil, tagCount, 1<<32-1), 0, false},
		{"missing", appendString(nil, tagName, "x"), 0, false},
		{"empty", nil, 0, false},
		{"of 8 bytes", appendUint64(nil, tagCount, 1), 0, false},
		{"with others", appendString(appendUint32(nil, tagCount, 5), 99, "x"), 5, true},
	} {
		n, err := countOf(c.b)
		if (err == nil) != c.ok || c.ok && n != c.want || err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %d, %v", c.what, n, err)
		}
	}
}

// What all items bring together has a bound, before it is sent and where it arrives.
func TestItemsAreBounded(t *testing.T) {
	large := Item{Name: "x", Kind: Connection, Meta: make([]byte, maxMeta), Unread: make([]byte, maxUnread)}
	fit := maxContent / large.size()
	for _, c := range []struct {
		what          string
		before, items []Item
		want          error
	}{
		{"as many as there can be", nil, slices.Repeat([]Item{{Name: "x", Kind: Connection}}, maxItems), nil},
		{"one more", make([]Item, maxItems), []Item{{Name: "x", Kind: Connection}}, ErrItem},
		{"as large as there can be", nil, slices.Repeat([]Item{large}, fit), nil},
		{"larger", slices.Repeat([]Item{large}, fit), []Item{large}, ErrItem},
	} {
		if err := checkItems(c.before, c.items); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	f := &frame{kind: frameItems, payload: large.append(nil)}
	f.files = receivedFiles(t, 1)
	defer f.files.Close()
	to := &Takeover{machine: &successor{at: stepOffer}, count: 1, size: maxContent - large.size() + 1}
	if err := to.receiveItems(f); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("too much arrived: %v", err)
	}
}

// receivedFiles are n descriptors, as they arrive.
func receivedFiles(t *testing.T, n int) scm.Files {
	t.Helper()
	p, s := pair(t, socketpair.SeqPacket)
	defer p.Close()
	defer s.Close()
	if err := p.SendFDs([]byte("x"), make([]int, n)); err != nil {
		t.Fatal(err)
	}
	m, err := s.Receive(make([]byte, 1), n)
	if err != nil {
		t.Fatal(err)
	}
	return m.Files
}

func TestParseItem(t *testing.T) {
	full := func(size int) []byte { return bytes.Repeat([]byte("x"), size) }
	for _, c := range []struct {
		what string
		item Item
		want error
	}{
		{"the least", Item{Name: "x", Kind: File}, nil},
		{"all", Item{Name: "x", Kind: Listener, Backlog: 7, Meta: full(3), Unread: full(4)}, nil},
		{"the most", Item{Name: string(full(maxName)), Kind: Connection, Backlog: 1 << 30, Meta: full(maxMeta), Unread: full(maxUnread)}, nil},
		{"no name", Item{Kind: File}, ErrItem},
		{"a long name", Item{Name: string(full(maxName + 1)), Kind: File}, ErrItem},
		{"no kind", Item{Name: "x"}, ErrItem},
		{"a later kind", Item{Name: "x", Kind: kinds}, ErrItem},
		{"much metadata", Item{Name: "x", Kind: File, Meta: full(maxMeta + 1)}, ErrItem},
		{"much unread", Item{Name: "x", Kind: File, Unread: full(maxUnread + 1)}, ErrItem},
		{"a backlog too long", Item{Name: "x", Kind: File, Backlog: 1<<30 + 1}, ErrItem},
	} {
		n := 0
		b := c.item.append(nil)
		if c.want == nil && len(b) > maxPayload {
			t.Errorf("%s: %d bytes do not fit into a frame", c.what, len(b))
		}
		err := records(b, func(g tag, v []byte) error {
			n++
			it, err := parseItem(v)
			if g != tagItem || err == nil && !reflect.DeepEqual(it, c.item) {
				t.Errorf("%s: record %d, %+v", c.what, g, it)
			}
			return err
		})
		if n != 1 || !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %d, %v", c.what, n, err)
		}
	}
	good := appendBytes(appendString(nil, tagName, "x"), tagKind, []byte{4})
	for what, b := range map[string][]byte{
		"a kind of two bytes":    appendString(good, tagKind, "\x01\x01"),
		"a kind of none":         appendString(good, tagKind, ""),
		"a backlog of two bytes": appendString(good, tagBacklog, "\x01\x01"),
		"rubbish":                append(bytes.Clone(good), 1, 2, 3),
	} {
		if _, err := parseItem(b); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if it, err := parseItem(appendString(good, 4711, "later")); err != nil || it.Name != "x" {
		t.Errorf("an unknown record: %+v, %v", it, err)
	}
}
