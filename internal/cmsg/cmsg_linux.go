package cmsg

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// BufferSize is the room for control messages that no message outgrows: 253 descriptors, credentials, a
// pidfd, a timestamp and the unread count need 1144 bytes, the rest is for a security label. With a
// constant buffer of this size MSG_CTRUNC has one meaning: the descriptors did not get into this
// process.
const BufferSize = 1144 + 392

// AppendCredentials appends an SCM_CREDENTIALS message to b. It allocates nothing if b has room
// (CredentialsSize).
func AppendCredentials(b []byte, c Credentials) []byte {
	start := len(b)
	b = appendHeader(b, unix.SCM_CREDENTIALS, unix.SizeofUcred)
	b = binary.NativeEndian.AppendUint32(b, uint32(int32(c.PID)))
	b = binary.NativeEndian.AppendUint32(b, c.UID)
	b = binary.NativeEndian.AppendUint32(b, c.GID)
	return pad(b, start+unix.CmsgSpace(unix.SizeofUcred))
}

func (r *Received) addOther(kind int32, data []byte) {
	switch kind {
	case unix.SCM_CREDENTIALS:
		if len(data) < unix.SizeofUcred {
			r.Malformed = true
			return
		}
		r.HasCred = true
		r.Cred = Credentials{
			PID: int(int32(binary.NativeEndian.Uint32(data))),
			UID: binary.NativeEndian.Uint32(data[4:]),
			GID: binary.NativeEndian.Uint32(data[8:]),
		}
	case unix.SCM_PIDFD:
		if len(data) < 4 {
			r.Malformed = true
			return
		}
		// Negative is an errno: the descriptor table is full, and no MSG_CTRUNC says so.
		fd := int(int32(binary.NativeEndian.Uint32(data)))
		if fd < 0 {
			return
		}
		if r.PIDFD >= 0 {
			r.FDs = append(r.FDs, r.PIDFD) // never seen; it must not get lost all the same
		}
		r.PIDFD = fd
	}
}
