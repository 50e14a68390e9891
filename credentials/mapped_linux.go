package credentials

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// isMapped reports whether the id names one user here. In a user namespace that does not map
// everybody, the overflow id stands for all the others.
func isMapped(id uint32) bool {
	return id != noID && (id != overflowID() || everybodyMapped())
}

var overflowID = sync.OnceValue(func() uint32 {
	if b, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		if id, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil {
			return uint32(id)
		}
	}
	return 65534
})

// everybodyMapped reports whether uid_map is that of the initial namespace. A process with threads,
// such as ours, cannot change its user namespace.
var everybodyMapped = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	return len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
})
