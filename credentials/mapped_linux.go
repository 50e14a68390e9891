package credentials

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// isMapped reports whether the uid names one user here, isMappedGroup whether the gid names one group.
// In a user namespace that does not map everybody, the overflow id stands for all the others.
var isMapped, isMappedGroup = mapped("uid"), mapped("gid")

func mapped(kind string) func(id uint32) bool {
	overflow := sync.OnceValue(func() uint32 {
		if b, err := os.ReadFile("/proc/sys/kernel/overflow" + kind); err == nil {
			if id, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil {
				return uint32(id)
			}
		}
		return 65534
	})
	// A process with threads, such as ours, cannot change its user namespace.
	everybody := sync.OnceValue(func() bool {
		b, err := os.ReadFile("/proc/self/" + kind + "_map")
		if err != nil {
			return false
		}
		f := strings.Fields(string(b))
		return len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
	})
	return func(id uint32) bool { return id != noID && (id != overflow() || everybody()) }
}
