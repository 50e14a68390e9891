//go:build unix && (!linux || fdkit_other)

package scm

// What Linux does and this kernel does not, or was not seen to.
const (
	tellsEnd         = false
	emptyTravels     = false // x/sys adds a byte
	fullMeansTooLong = false // the receiver of a datagram is full
)
