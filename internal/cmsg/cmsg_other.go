//go:build unix && !linux

package cmsg

// addOther knows no other kind here: identity comes from the connection, not with the message.
func (r *Received) addOther(int32, []byte) {}
