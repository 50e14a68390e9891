//go:build unix

package systemd

import (
	"os"
	"strconv"
	"time"
)

// WatchdogInterval returns how often the manager wants to hear [Watchdog] of this process, WatchdogSec=: it
// ends the service otherwise. Say it every half of that. It is 0 if the manager does not ask, or asks
// another process: sd_watchdog_enabled(3). [ErrEnvironment] says that the variable, WATCHDOG_USEC or
// WATCHDOG_PID, is malformed.
func WatchdogInterval() (time.Duration, error) {
	value, ok := os.LookupEnv("WATCHDOG_USEC")
	if !ok {
		return 0, nil
	}
	usec, err := strconv.ParseInt(value, 10, 64)
	if err != nil || usec <= 0 || usec > int64(1<<63-1)/1000 {
		return 0, malformed("WATCHDOG_USEC", value, "is not a time in microseconds")
	}
	if value, ok := os.LookupEnv("WATCHDOG_PID"); ok {
		pid, err := strconv.Atoi(value)
		if err != nil || pid <= 0 {
			return 0, malformed("WATCHDOG_PID", value, "is not a pid")
		}
		if pid != os.Getpid() {
			return 0, nil
		}
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// storeLimit returns FileDescriptorStoreMax= as the manager tells it (systemd 254).
func storeLimit() (int, bool) {
	n, err := strconv.Atoi(os.Getenv("FDSTORE"))
	return n, err == nil && n >= 0
}
