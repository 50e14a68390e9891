//go:build unix && !linux

package credentials

// peerOfConnection is peer: a listener has none here.
func peerOfConnection(fd int) (Cred, error) { return peer(fd) }
