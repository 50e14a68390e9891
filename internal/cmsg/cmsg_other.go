//go:build unix && !linux

package cmsg

// BufferSize is more room than these systems let a message fill: they bound the control data by a
// cluster of 2 KiB, not the descriptors, and what does not fit leaks on macOS.
const BufferSize = 4096

// addOther knows no other kind here: identity comes from the connection, not with the message.
func (r *Received) addOther(int32, []byte) {}
