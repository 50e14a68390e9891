//go:build linux

package holder

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// What s6's programs said to a socket, s6 2.11.3, with the number of descriptors in the header.
var realRequests = map[string]string{
	"s6-fdholder-store S web":            "000000120001" + "53600000006b070aaa095627490377656200",
	"s6-fdholder-store -T 5000 S 'a b'":  "000000120001" + "53400000006b070aaf09c7b4830361206200",
	"s6-fdholder-delete S web":           "000000060000" + "440377656200",
	"s6-fdholder-retrieve -D S web true": "000000070000" + "52010377656200",
	"s6-fdholder-retrieve S web true":    "000000070000" + "52000377656200",
	"s6-fdholder-list S":                 "000000010000" + "4c",
	"s6-fdholder-getdump S true":         "000000010000" + "3f",
	"s6-fdholder-setdump S, first":       "000000050000" + "2100000002",
	"s6-fdholder-setdump S, then":        "000000210002" + "2e600000006b070d1c23c5ef030377656200600000006b070d1c23c5ef03017800",
}

// What s6-fdholderd answered.
const (
	realList    = "00000002" + "7765620078" + "00"
	realDump    = "0000000100000002"
	realEntries = "600000006b070d02000000000377656200600000006b070d0200000001017800"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each real request is understood, and we would have sent the same bytes.
func TestRealRequests(t *testing.T) {
	for program, s := range realRequests {
		b := unhex(t, s)
		size, nfds, err := parseHeader(b, maxRequest)
		if err != nil || size != len(b)-headerSize {
			t.Fatalf("%s: header %d %d %v", program, size, nfds, err)
		}
		r, err := parseRequest(b[headerSize:], nfds)
		if err != nil {
			t.Errorf("%s: %v", program, err)
			continue
		}
		payload := r.append(nil)
		if ours := append(appendHeader(nil, len(payload), nfds), payload...); !bytes.Equal(ours, b) {
			t.Errorf("%s: we would send %x for %x", program, ours, b)
		}
	}
	names, err := parseList(unhex(t, realList))
	if err != nil || !slices.Equal(names, []string{"web", "x"}) {
		t.Errorf("list %q %v", names, err)
	}
	total, err := parseDump(unhex(t, realDump))
	if err != nil || total != 2 {
		t.Errorf("dump %d %v", total, err)
	}
	entries, err := parseEntries(unhex(t, realEntries), total)
	if err != nil || entries[0].Name != "web" || entries[1].Name != "x" {
		t.Errorf("entries %v %v", entries, err)
	}
}

func TestMalformed(t *testing.T) {
	tain := strings.Repeat("\x00", tainSize)
	for what, c := range map[string]struct {
		payload string
		nfds    int
	}{
		"nothing":                   {"", 0},
		"unknown":                   {"Z", 0},
		"store without descriptor":  {"S" + tain + "\x03web\x00", 0},
		"store with two":            {"S" + tain + "\x03web\x00", 2},
		"store without name":        {"S" + tain + "\x00\x00", 1},
		"store without NUL":         {"S" + tain + "\x03webx", 1},
		"store with more":           {"S" + tain + "\x03web\x00x", 1},
		"store of a name with NUL":  {"S" + tain + "\x03w\x00b\x00", 1},
		"store cut":                 {"S" + tain, 1},
		"store cut in the time":     {"S" + tain[1:], 1},
		"delete with a descriptor":  {"D\x03web\x00", 1},
		"delete of nothing":         {"D", 0},
		"retrieve of nothing":       {"R", 0},
		"retrieve without name":     {"R\x01", 0},
		"list of more":              {"Lx", 0},
		"dump of more":              {"?x", 0},
		"restore without count":     {"!\x00\x00\x00", 0},
		"no entries":                {".", 0},
		"fewer entries":             {"." + tain + "\x01a\x00", 2},
		"more entries":              {"." + tain + "\x01a\x00" + tain + "\x01b\x00", 1},
		"adopt without descriptor":  {"A", 0},
		"unread without its number": {"u\x00", 0},
	} {
		if r, err := parseRequest([]byte(c.payload), c.nfds); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %+v %v", what, r, err)
		}
	}
	for what, header := range map[string][]byte{
		"a frame that is too long":      appendHeader(nil, maxRequest+1, 0),
		"a frame of 4 GiB":              {255, 255, 255, 255, 0, 0},
		"more descriptors than one can": appendHeader(nil, 1, maxFDs+1),
	} {
		if _, _, err := parseHeader(header, maxRequest); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x02a\x00", "\x00\x00\x00\x01a", "\x00\x00\x00\x01\x00\x00", "\xff\xff\xff\xffa\x00"} {
		if names, err := parseList([]byte(p)); !errors.Is(err, ErrProtocol) {
			t.Errorf("list %q: %q %v", p, names, err)
		}
	}
}

func TestTain(t *testing.T) {
	now := time.Unix(1787400000, 7)
	if got, ok := TainOf(now).Time(); !ok || !got.Equal(now) {
		t.Errorf("%v %v", got, ok)
	}
	if got, ok := Never(now).Time(); ok {
		t.Errorf("never is %v", got)
	}
	if !TainOf(now).Before(Never(now)) || !TainOf(now).Before(TainOf(now.Add(1))) || TainOf(now).Before(TainOf(now)) {
		t.Error("order")
	}
	if (Tain{}).Before(Tain{}) {
		t.Error("the zero Tain is before itself")
	}
}

func TestMeta(t *testing.T) {
	e := &entry{Entry: Entry{strings.Repeat("n", maxName), Never(time.Now())}, id: 1 << 40, owner: 4242, fd: -1}
	b := appendMeta(nil, e)
	got, err := parseMeta(b)
	if err != nil {
		t.Fatal(err)
	}
	if *got != *e {
		t.Errorf("%+v for %+v", got, e)
	}
	for i := range b {
		if _, err := parseMeta(b[:i]); err == nil {
			t.Errorf("%d bytes of %d are enough", i, len(b))
		}
	}
	if _, err := parseMeta(append([]byte{metaVersion + 1}, b[1:]...)); err == nil || errors.Is(err, ErrProtocol) {
		t.Errorf("another version: %v", err)
	}
	if ids, err := parseIDs(appendIDs(nil, []uint64{3, 1 << 60})); err != nil || !slices.Equal(ids, []uint64{3, 1 << 60}) {
		t.Errorf("%v %v", ids, err)
	}
}

// A decoder takes anything, and what it accepts is what its encoder makes.
func FuzzWire(f *testing.F) {
	for _, s := range realRequests {
		b := unhex(f, s)
		f.Add(b[headerSize:], int(binary.BigEndian.Uint16(b[4:])))
	}
	for _, s := range []string{realList, realDump, realEntries} {
		f.Add(unhex(f, s), 2)
	}
	f.Add(appendMeta(nil, &entry{Entry: Entry{Name: "web"}}), 1)
	f.Add(appendIDs(nil, []uint64{1, 2}), 0)
	f.Fuzz(func(t *testing.T, p []byte, nfds int) {
		nfds = min(max(nfds, 0), maxFDs)
		if r, err := parseRequest(p, nfds); err == nil {
			again := r.append(nil)
			if r.op == opRetrieve {
				p = slices.Clone(p)
				p[1] = again[1] // any byte but 0 is yes
			}
			if r.count < 1<<30 && !bytes.Equal(again, p) {
				t.Errorf("%x is read as %x", p, again)
			}
		}
		if names, err := parseList(p); err == nil {
			again := binary.BigEndian.AppendUint32(nil, uint32(len(names)))
			for _, name := range names {
				again = append(append(again, name...), 0)
			}
			if !bytes.Equal(again, p) {
				t.Errorf("%x is read as %q", p, names)
			}
		}
		if entries, err := parseEntries(p, nfds); err == nil {
			var again []byte
			for _, e := range entries {
				again = appendEntry(again, e)
			}
			if !bytes.Equal(again, p) {
				t.Errorf("%x is read as %v", p, entries)
			}
		}
		if e, err := parseMeta(p); err == nil && !bytes.Equal(appendMeta(nil, e), p) {
			t.Errorf("%x is read as %+v", p, e)
		}
		if ids, err := parseIDs(p); err == nil && !bytes.Equal(appendIDs(nil, ids), p) {
			t.Errorf("%x is read as %v", p, ids)
		}
		_, _ = parseDump(p)
	})
}
