//go:build unix

package systemd

import (
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A State is what a service tells its manager: an assignment VARIABLE=VALUE of sd_notify(3), or several of
// them on lines of their own. What the manager does not know it ignores.
type State string

// States that have no value.
const (
	// Ready: the start or the reload is complete.
	Ready State = "READY=1"

	// Stopping: the service begins to stop.
	Stopping State = "STOPPING=1"

	// Watchdog: the service is alive. To be told every half of [WatchdogInterval].
	Watchdog State = "WATCHDOG=1"

	// Unwatched, with [Store]: keep the descriptor whatever happens to it. Else the manager closes
	// one that reports a hangup or an error, such as a socketpair whose other end was closed (systemd
	// 246).
	Unwatched State = "FDPOLL=0"
)

// Reloading says that the service reloads its configuration, from now on until it says [Ready]. The time
// that goes along is what Type=notify-reload needs (systemd 253).
func Reloading() State {
	return State("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic().Microseconds(), 10))
}

// Status is one line for people, what systemctl status shows. A line break in it becomes a space.
func Status(text string) State {
	text = strings.ToValidUTF8(text, "\uFFFD") // else the manager would ignore it
	return State("STATUS=" + strings.NewReplacer("\r\n", " ", "\n", " ").Replace(text))
}

// Errno is why the service failed.
func Errno(errno syscall.Errno) State { return State("ERRNO=" + strconv.Itoa(int(errno))) }

// MainPID moves the unit to another main process: the successor of this one. The manager believes it only
// of a process in the unit's control group, and NotifyAccess= must be all if the new one is to be heard
// before it believes it. The old one must not end before the manager has heard: see [Barrier].
//
// The number of its pidfd goes along if the process runs and the kernel has such numbers, and then it
// cannot be another process that has got the pid meanwhile (MAINPIDFDID, systemd 257, Linux 6.9).
func MainPID(pid int) State {
	state := "MAINPID=" + strconv.Itoa(pid)
	if id := pidfdID(pid); id != 0 {
		state += "\nMAINPIDFDID=" + strconv.FormatUint(id, 10)
	}
	return State(state)
}

// ExtendTimeout asks for d from now on, instead of what is left of the time for the start, the stop or the
// run: TimeoutStartSec=, TimeoutStopSec=, RuntimeMaxSec=.
func ExtendTimeout(d time.Duration) State {
	return State("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(max(d.Microseconds(), 0), 10))
}

// Get returns the value of a variable that a manager was told, the last one if there are several.
func (s State) Get(variable string) (value string, ok bool) {
	for line := range strings.SplitSeq(string(s), "\n") {
		if v, found := strings.CutPrefix(line, variable+"="); found {
			value, ok = v, true
		}
	}
	return value, ok
}
