//go:build unix

package cmsg

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	// MaxFDs is SCM_MAX_FD of the Linux kernel: the descriptors that one message can carry, over all
	// its SCM_RIGHTS headers together. No header file exports it.
	MaxFDs = 253

	// RightsSize is the room for one SCM_RIGHTS header with MaxFDs descriptors, on any system.
	RightsSize = 32 + 4*(MaxFDs+1)

	// CredentialsSize is the room for one SCM_CREDENTIALS header, on any system.
	CredentialsSize = 16 + 16
)

// lengthSize is the size of cmsg_len: a size_t on Linux, a socklen_t elsewhere. The two ints
// behind it are the level and the type.
const lengthSize = unix.SizeofCmsghdr - 8

// Received is what Parse found.
type Received struct {
	FDs       []int // the slice given to Parse and what was appended to it
	Refused   int   // places in SCM_RIGHTS that hold an errno instead of a descriptor
	Cred      Credentials
	HasCred   bool
	PIDFD     int  // of SCM_PIDFD; -1 if there was none, or the kernel could not install it
	Malformed bool // the walk ended before the buffer did
}

// Credentials is a struct ucred, as the kernel wrote it.
type Credentials struct {
	PID      int
	UID, GID uint32
}

// Parse walks the control messages in b and appends the descriptors to fds, in their order. It
// does not judge: a descriptor that is reported is open and the caller's, whatever else is wrong.
func Parse(b []byte, fds []int) Received {
	r := Received{FDs: fds, PIDFD: -1}
	for len(b) > 0 {
		if len(b) < unix.SizeofCmsghdr {
			r.Malformed = true
			break
		}
		n := length(b)
		if n < uint64(unix.CmsgLen(0)) {
			r.Malformed = true
			break
		}
		size := len(b)
		if n > uint64(size) {
			// Cut off, or a system that leaves the length untruncated (macOS): what is there counts.
			r.Malformed = true
		} else {
			size = int(n)
		}
		level := int32(binary.NativeEndian.Uint32(b[lengthSize:]))
		kind := int32(binary.NativeEndian.Uint32(b[lengthSize+4:]))
		if level == unix.SOL_SOCKET && size > unix.CmsgLen(0) {
			r.add(kind, b[unix.CmsgLen(0):size])
		}
		b = b[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(b)):]
	}
	return r
}

// Rights is Parse for the usual case, control data that is nothing or one SCM_RIGHTS message: it appends its
// descriptors to fds, at most max of them, all above 2. For anything else it reports false and appends
// nothing, so that Parse may have a look.
func Rights(b []byte, fds []int, max int) ([]int, bool) {
	if len(b) == 0 {
		return fds, true
	}
	if len(b) < unix.CmsgLen(0) {
		return fds, false
	}
	n := length(b)
	if n < uint64(unix.CmsgLen(0)) || n > uint64(len(b)) {
		return fds, false
	}
	data := b[unix.CmsgLen(0):n]
	level := int32(binary.NativeEndian.Uint32(b[lengthSize:]))
	kind := int32(binary.NativeEndian.Uint32(b[lengthSize+4:]))
	if level != unix.SOL_SOCKET || kind != unix.SCM_RIGHTS || unix.CmsgSpace(len(data)) < len(b) ||
		len(data)%4 != 0 || len(data)/4 > max {
		return fds, false
	}
	got := fds
	for ; len(data) >= 4; data = data[4:] {
		fd := int32(binary.NativeEndian.Uint32(data))
		if fd <= 2 {
			return fds, false
		}
		got = append(got, int(fd))
	}
	return got, true
}

func (r *Received) add(kind int32, data []byte) {
	if kind != unix.SCM_RIGHTS {
		r.addOther(kind, data)
		return
	}
	for ; len(data) >= 4; data = data[4:] {
		// Signed: a kernel that lets a security module refuse single descriptors puts -EPERM into
		// their places, and closing a negative number as unsigned closes somebody else's.
		if fd := int32(binary.NativeEndian.Uint32(data)); fd >= 0 {
			r.FDs = append(r.FDs, int(fd))
		} else {
			r.Refused++
		}
	}
	if len(data) > 0 {
		r.Malformed = true
	}
}

// AppendRights appends an SCM_RIGHTS message with fds to b. It allocates nothing if b has room
// (RightsSize), and appends nothing for no descriptors.
func AppendRights(b []byte, fds []int) []byte {
	if len(fds) == 0 {
		return b
	}
	start := len(b)
	b = appendHeader(b, unix.SCM_RIGHTS, 4*len(fds))
	for _, fd := range fds {
		b = binary.NativeEndian.AppendUint32(b, uint32(int32(fd)))
	}
	return pad(b, start+unix.CmsgSpace(4*len(fds)))
}

func length(b []byte) uint64 {
	if lengthSize == 8 {
		return binary.NativeEndian.Uint64(b)
	}
	return uint64(binary.NativeEndian.Uint32(b))
}

func appendHeader(b []byte, kind, size int) []byte {
	start := len(b)
	if lengthSize == 8 {
		b = binary.NativeEndian.AppendUint64(b, uint64(unix.CmsgLen(size)))
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(unix.CmsgLen(size)))
	}
	b = binary.NativeEndian.AppendUint32(b, unix.SOL_SOCKET)
	b = binary.NativeEndian.AppendUint32(b, uint32(kind))
	return pad(b, start+unix.CmsgLen(0))
}

func pad(b []byte, size int) []byte {
	for len(b) < size {
		b = append(b, 0)
	}
	return b
}
