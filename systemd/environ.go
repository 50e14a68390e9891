//go:build unix

package systemd

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/credentials"
)

// The variables of sd_listen_fds(3).
const (
	listenFDs     = "LISTEN_FDS"
	listenPID     = "LISTEN_PID"
	listenFDNames = "LISTEN_FDNAMES"
	listenPIDFDID = "LISTEN_PIDFDID"
)

var listenVariables = []string{listenFDs, listenPID, listenFDNames, listenPIDFDID}

// firstFD is SD_LISTEN_FDS_START.
const firstFD = 3

// Environ returns env, such as os.Environ(), with the variables that give descriptors to the process pid,
// one for each name, numbered from 3 on. Variables of that kind which it had are gone; without names
// there are none afterwards. A name is as for [Named]; one with a colon would be two.
//
// It is for a program that executes another one in its place, execve(2), where the pid is its own. A
// child's pid is not known before it runs: that is what [Start] is for. The identity of the process's
// pidfd goes along where the kernel has one (LISTEN_PIDFDID, systemd 258, Linux 6.9), and pid must run
// for that.
func Environ(env []string, pid int, names ...string) []string {
	env = withoutListen(env)
	if len(names) == 0 {
		return env
	}
	env = append(env, listenCount(names)...)
	env = append(env, listenPID+"="+strconv.Itoa(pid))
	if id := pidfdID(pid); id != 0 {
		env = append(env, listenPIDFDID+"="+strconv.FormatUint(id, 10))
	}
	return env
}

// listenCount is the part of the environment that does not depend on the pid.
func listenCount(names []string) []string {
	return []string{listenFDs + "=" + strconv.Itoa(len(names)), listenFDNames + "=" + strings.Join(names, ":")}
}

// withoutListen returns a copy of env without the variables of sd_listen_fds(3).
func withoutListen(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(listenVariables, name)
	})
}

// pidfdID returns the number of a process that is never used again, 0 if the kernel has none.
func pidfdID(pid int) uint64 {
	p, err := credentials.OpenProcess(pid)
	if err != nil {
		return 0
	}
	defer p.Close()
	return p.ID().Ino
}

// passed is what the environment says.
type passed struct {
	n     int      // descriptors, from firstFD on
	names []string // of each, or nil
}

// parseListen reads the variables for the process pid. What is meant for another process, one that has
// started this one and left its environment, is nothing. id is asked for [pidfdID] if need be.
func parseListen(lookup func(string) (string, bool), pid int, id func() uint64) (passed, error) {
	value, ok := lookup(listenPID)
	if !ok {
		return passed{}, nil
	}
	if for_, err := strconv.Atoi(value); err != nil || for_ <= 0 {
		return passed{}, malformed(listenPID, value, "is not a pid")
	} else if for_ != pid {
		return passed{}, nil
	}
	if value, ok := lookup(listenPIDFDID); ok {
		want, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return passed{}, malformed(listenPIDFDID, value, "is not a number")
		}
		// The pid was used again.
		if have := id(); have != 0 && have != want {
			return passed{}, nil
		}
	}
	if value, ok = lookup(listenFDs); !ok {
		return passed{}, nil
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 0 || n > 1<<31-1-firstFD {
		return passed{}, malformed(listenFDs, value, "is not a number of descriptors")
	}
	p := passed{n: int(n)}
	if value, ok := lookup(listenFDNames); ok && n > 0 {
		p.names = strings.Split(value, ":")
		if len(p.names) != p.n {
			return passed{}, errors.WithMessagef(ErrEnvironment, "%s has %d names for %d descriptors", listenFDNames, len(p.names), n)
		}
	}
	return p, nil
}

func malformed(variable, value, what string) error {
	if len(value) > 40 {
		value = value[:40] + "…"
	}
	return errors.WithMessagef(ErrEnvironment, "%s=%q %s", variable, value, what)
}

// clearListen takes the variables away, so that no child thinks it was given descriptors.
func clearListen() {
	for _, name := range listenVariables {
		_ = os.Unsetenv(name)
	}
}
