//go:build linux

package cmsg_test

import (
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
)

// recorded receives real messages and returns their control data: descriptors, credentials and a
// pidfd in all combinations, whole and cut off.
func recorded(t testing.TB) [][]byte {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	var messages [][]byte
	for options := range 4 {
		_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_PASSCRED, options&1)
		_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_PASSPIDFD, options>>1)
		for _, n := range []int{0, 1, 2, 5} {
			for _, room := range []int{cmsg.BufferSize, 20, 24, 36, 50, 60} {
				sent := make([]int, n) // descriptor 0, n times
				if err := unix.Sendmsg(fds[0], []byte("x"), cmsg.AppendRights(nil, sent), nil, 0); err != nil {
					t.Fatal(err)
				}
				control := make([]byte, room)
				_, size, _, _, err := unix.Recvmsg(fds[1], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				got := cmsg.Parse(control[:size], nil)
				for _, fd := range append(got.FDs, got.PIDFD) {
					if fd >= 0 && os.NewFile(uintptr(fd), "").Close() != nil {
						t.Fatalf("%d in % x is not open", fd, control[:size])
					}
				}
				messages = append(messages, control[:size])
			}
		}
	}
	return messages
}

// FuzzParse: no input makes Parse panic, read beyond its end, or miss a descriptor in front of the
// place where the walk had to end.
func FuzzParse(f *testing.F) {
	for _, m := range recorded(f) {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		input := slices.Clone(b)
		got := cmsg.Parse(slices.Clip(b), nil)
		if !slices.Equal(b, input) {
			t.Fatal("the input was changed")
		}
		if len(got.FDs)+got.Refused > len(b)/4 {
			t.Fatalf("%d descriptors in %d bytes", len(got.FDs)+got.Refused, len(b))
		}
		for _, fd := range got.FDs {
			if fd < 0 || !slices.Contains(words(b), uint32(fd)) {
				t.Fatalf("descriptor %d is not in the input", fd)
			}
		}
		// The short way finds the same as the long one, or nothing.
		if short, ok := cmsg.Rights(b, nil, cmsg.MaxFDs); ok {
			if !slices.Equal(short, got.FDs) || got.Malformed || got.HasCred || got.PIDFD != -1 || got.Refused != 0 {
				t.Fatalf("the short way: %v, the long one: %+v", short, got)
			}
		}
		// A good message in front is reported whatever follows.
		front := cmsg.Parse(slices.Concat(cmsg.AppendRights(nil, []int{77, 78}), b), nil)
		if !slices.Equal(front.FDs, append([]int{77, 78}, got.FDs...)) || front.Malformed != got.Malformed {
			t.Fatalf("behind a good message: %+v, alone: %+v", front, got)
		}
		// And so is one behind, if the walk came to its end there.
		if !got.Malformed && len(b)%unix.CmsgSpace(0) == 0 {
			behind := cmsg.Parse(slices.Concat(b, cmsg.AppendRights(nil, []int{79})), nil)
			if len(behind.FDs) != len(got.FDs)+1 {
				t.Fatalf("before a good message: %+v, alone: %+v", behind, got)
			}
		}
	})
}

// words are all the 32-bit numbers in b.
func words(b []byte) []uint32 {
	var w []uint32
	for i := range max(len(b)-3, 0) {
		w = append(w, binary.NativeEndian.Uint32(b[i:]))
	}
	return w
}
