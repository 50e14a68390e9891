//go:build linux

package cmsg_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
)

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 252, 253} {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = 100 + i
		}
		b := cmsg.AppendRights(nil, fds)
		if n > 0 && len(b) != unix.CmsgSpace(4*n) || len(b) > cmsg.RightsSize {
			t.Errorf("%d descriptors take %d bytes", n, len(b))
		}
		want := cmsg.Credentials{PID: 4711, UID: 1000, GID: 4294967295}
		b = cmsg.AppendCredentials(b, want)
		got := cmsg.Parse(b, nil)
		if !slices.Equal(got.FDs, fds) && n > 0 || !got.HasCred || got.Cred != want || got.PIDFD != -1 || got.Malformed || got.Refused != 0 {
			t.Errorf("%d descriptors: %+v", n, got)
		}
	}
}

// What we build is what x/sys builds.
func TestSameAsUnix(t *testing.T) {
	if got, want := cmsg.AppendRights(nil, []int{3, 4, 5}), unix.UnixRights(3, 4, 5); !slices.Equal(got, want) {
		t.Errorf("rights % x, want % x", got, want)
	}
	got := cmsg.AppendCredentials(nil, cmsg.Credentials{PID: 1, UID: 2, GID: 3})
	if want := unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 2, Gid: 3}); !slices.Equal(got, want) {
		t.Errorf("credentials % x, want % x", got, want)
	}
}

// header makes a message with any length, right or wrong.
func header(length, level, kind int, data ...int32) []byte {
	b := make([]byte, unix.CmsgLen(0))
	if unix.SizeofCmsghdr == 16 {
		binary.NativeEndian.PutUint64(b, uint64(length))
		binary.NativeEndian.PutUint32(b[8:], uint32(level))
		binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(length))
		binary.NativeEndian.PutUint32(b[4:], uint32(level))
		binary.NativeEndian.PutUint32(b[8:], uint32(kind))
	}
	for _, d := range data {
		b = binary.NativeEndian.AppendUint32(b, uint32(d))
	}
	return append(b, make([]byte, unix.CmsgSpace(4*len(data))-len(b))...)
}

func TestParse(t *testing.T) {
	rights := func(fds ...int32) []byte {
		return header(unix.CmsgLen(4*len(fds)), unix.SOL_SOCKET, unix.SCM_RIGHTS, fds...)
	}
	good := rights(5, 6)
	for _, row := range []struct {
		what      string
		b         []byte
		fds       []int
		refused   int
		pidfd     int
		malformed bool
	}{
		{what: "nothing", pidfd: -1},
		{what: "two headers", b: slices.Concat(rights(7), good), fds: []int{7, 5, 6}, pidfd: -1},
		{what: "an empty one", b: rights(), pidfd: -1},
		{what: "refused places", b: rights(7, -1, 8, -13), fds: []int{7, 8}, refused: 2, pidfd: -1},
		{what: "a pidfd", b: slices.Concat(good, header(unix.CmsgLen(4), unix.SOL_SOCKET, unix.SCM_PIDFD, 9)), fds: []int{5, 6}, pidfd: 9},
		{what: "a pidfd that could not be installed", b: header(unix.CmsgLen(4), unix.SOL_SOCKET, unix.SCM_PIDFD, -24), pidfd: -1},
		{what: "two pidfds", b: slices.Concat(header(unix.CmsgLen(4), unix.SOL_SOCKET, unix.SCM_PIDFD, 9), header(unix.CmsgLen(4), unix.SOL_SOCKET, unix.SCM_PIDFD, 10)), fds: []int{9}, pidfd: 10},
		{what: "another level", b: slices.Concat(header(unix.CmsgLen(4), unix.SOL_SOCKET+1, unix.SCM_RIGHTS, 9), good), fds: []int{5, 6}, pidfd: -1},
		{what: "another kind", b: slices.Concat(header(unix.CmsgLen(4), unix.SOL_SOCKET, 99, 9), good), fds: []int{5, 6}, pidfd: -1},
		// x/sys returns nothing at all for these, and the descriptors leak.
		{what: "a cut header behind a good one", b: slices.Concat(good, make([]byte, 7)), fds: []int{5, 6}, pidfd: -1, malformed: true},
		{what: "a length of zero", b: slices.Concat(good, header(0, unix.SOL_SOCKET, unix.SCM_RIGHTS, 9)), fds: []int{5, 6}, pidfd: -1, malformed: true},
		{what: "a length beyond the end", b: slices.Concat(good, header(1<<20, unix.SOL_SOCKET, unix.SCM_RIGHTS, 9, 10)), fds: []int{5, 6, 9, 10}, pidfd: -1, malformed: true},
		{what: "a huge length", b: slices.Concat(good, header(-1, unix.SOL_SOCKET, unix.SCM_RIGHTS, 9, 10)), fds: []int{5, 6, 9, 10}, pidfd: -1, malformed: true},
		{what: "half a descriptor", b: header(unix.CmsgLen(6), unix.SOL_SOCKET, unix.SCM_RIGHTS, 9, 10), fds: []int{9}, pidfd: -1, malformed: true},
		{what: "truncated credentials", b: slices.Concat(good, header(unix.CmsgLen(8), unix.SOL_SOCKET, unix.SCM_CREDENTIALS, 1, 2)), fds: []int{5, 6}, pidfd: -1, malformed: true},
		{what: "a truncated pidfd", b: header(unix.CmsgLen(2), unix.SOL_SOCKET, unix.SCM_PIDFD, 1), pidfd: -1, malformed: true},
	} {
		got := cmsg.Parse(row.b, nil)
		if !slices.Equal(got.FDs, row.fds) || got.Refused != row.refused || got.PIDFD != row.pidfd || got.Malformed != row.malformed || got.HasCred {
			t.Errorf("%s: %+v", row.what, got)
		}
	}
}

// Rights takes what is as it should be, and leaves everything else to Parse.
func TestRights(t *testing.T) {
	one := func(kind, length int, fds ...int32) []byte { return header(length, unix.SOL_SOCKET, kind, fds...) }
	rights := func(fds ...int32) []byte { return one(unix.SCM_RIGHTS, unix.CmsgLen(4*len(fds)), fds...) }
	for _, row := range []struct {
		what string
		b    []byte
		max  int
		want []int
		ok   bool
	}{
		{"nothing", nil, 0, nil, true},
		{"one", rights(7), 1, []int{7}, true},
		{"three", rights(7, 8, 3), 3, []int{7, 8, 3}, true},
		{"without its padding", rights(7)[:unix.CmsgLen(4)], 1, []int{7}, true},
		{"more than asked for", rights(7, 8), 1, nil, false},
		{"a standard one", rights(7, 2), 2, nil, false},
		{"a refused one", rights(7, -1), 2, nil, false},
		{"two messages", slices.Concat(rights(7), rights(8)), 2, nil, false},
		{"another kind", one(unix.SCM_PIDFD, unix.CmsgLen(4), 7), 1, nil, false},
		{"another level", header(unix.CmsgLen(4), unix.SOL_SOCKET+1, unix.SCM_RIGHTS, 7), 1, nil, false},
		{"half a descriptor", one(unix.SCM_RIGHTS, unix.CmsgLen(6), 7, 8), 2, nil, false},
		{"a length beyond the end", one(unix.SCM_RIGHTS, 1<<20, 7), 1, nil, false},
		{"a length of zero", one(unix.SCM_RIGHTS, 0, 7), 1, nil, false},
		{"a cut header", rights(7)[:7], 1, nil, false},
	} {
		got, ok := cmsg.Rights(row.b, make([]int, 0, 4), row.max)
		if !slices.Equal(got, row.want) || ok != row.ok {
			t.Errorf("%s: %v, %v, want %v, %v", row.what, got, ok, row.want, row.ok)
		}
	}
}

// The last of several credentials counts, as for the kernel.
func TestParseCredentials(t *testing.T) {
	b := cmsg.AppendCredentials(nil, cmsg.Credentials{PID: 1})
	b = cmsg.AppendCredentials(b, cmsg.Credentials{PID: 2, UID: 3, GID: 4})
	if got := cmsg.Parse(b, nil); got.Cred != (cmsg.Credentials{PID: 2, UID: 3, GID: 4}) {
		t.Errorf("%+v", got)
	}
}

func TestAllocations(t *testing.T) {
	fds := make([]int, cmsg.MaxFDs)
	into := make([]int, 0, cmsg.MaxFDs)
	var buf [cmsg.BufferSize]byte
	allocs := testing.AllocsPerRun(100, func() {
		b := cmsg.AppendRights(buf[:0], fds)
		b = cmsg.AppendCredentials(b, cmsg.Credentials{PID: 1})
		if got := cmsg.Parse(b, into); len(got.FDs) != cmsg.MaxFDs {
			t.Error(got)
		}
		if got, ok := cmsg.Rights(cmsg.AppendRights(buf[:0], fds[:0]), into, cmsg.MaxFDs); !ok || len(got) != 0 {
			t.Error(got)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// The room for control messages holds all that a message can have at once, so that MSG_CTRUNC can
// mean only one thing.
func TestBufferSize(t *testing.T) {
	all := unix.CmsgSpace(4*cmsg.MaxFDs) + unix.CmsgSpace(unix.SizeofUcred) + unix.CmsgSpace(4) + unix.CmsgSpace(16) + unix.CmsgSpace(4)
	if cmsg.BufferSize < all+unix.CmsgSpace(256) {
		t.Errorf("%d bytes of room, %d and a label may come", cmsg.BufferSize, all)
	}
}
