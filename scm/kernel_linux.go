//go:build !fdkit_other

package scm

// What this kernel does that others do not.
const (
	tellsEnd         = true // POLLRDHUP and SIOCINQ tell the end from an empty packet
	emptyTravels     = true // an empty packet with descriptors is one
	fullMeansTooLong = true // ENOBUFS is about this message, not about the moment
)
