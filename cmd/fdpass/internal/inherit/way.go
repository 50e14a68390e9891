// Package inherit knows the ways in which programs inherit sockets: which numbers, which environment,
// which blocking mode; and becomes such a program.
package inherit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
)

// A Way is how a kind of program inherits sockets.
type Way struct {
	Name  string
	About string // for --help

	// Stop is the signal after which the program finishes what it has begun, and ends.
	Stop syscall.Signal

	// Nonblock is the mode of the sockets. Most programs set the mode that they need, or rely on
	// blocking ones; nginx does neither.
	Nonblock bool

	// First is the number of the first socket, and Most how many there may be, 0 for any number.
	First, Most int

	environment func(e *environment)
}

// Ways are all there are; the first is the default.
var Ways = []Way{
	{Name: "systemd", About: "from 3, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES; also for programs that are told a number", Stop: syscall.SIGTERM, First: 3,
		environment: func(e *environment) {
			e.set("LISTEN_FDS", strconv.Itoa(len(e.Sockets)))
			if !e.NoPID {
				e.set("LISTEN_PID", strconv.Itoa(e.pid))
			}
			if slices.ContainsFunc(e.Sockets, func(s Socket) bool { return s.Name != "" }) {
				e.set("LISTEN_FDNAMES", e.join(":", func(_ int, s Socket) string {
					if s.Name == "" {
						return "unknown"
					}
					return s.Name
				}))
			}
		}},
	{Name: "nginx", About: "NGINX=3;4; (nonblocking, stops by QUIT)", Stop: syscall.SIGQUIT, First: 3, Nonblock: true,
		environment: func(e *environment) {
			e.set("NGINX", e.join("", func(fd int, _ Socket) string { return fmt.Sprintf("%d;", fd) }))
		}},
	{Name: "unicorn", About: "UNICORN_FD=3,4 (stops by QUIT)", Stop: syscall.SIGQUIT, First: 3,
		environment: func(e *environment) { e.set("UNICORN_FD", e.numbers()) }},
	{Name: "puma", About: "PUMA_INHERIT_0=3:tcp://HOST:PORT, the address as in puma's -b", Stop: syscall.SIGTERM, First: 3,
		environment: func(e *environment) {
			for i, s := range e.Sockets {
				scheme := "tcp://"
				if s.Local {
					scheme = "unix://"
				}
				e.set(fmt.Sprintf("PUMA_INHERIT_%d", i), fmt.Sprintf("%d:%s%s", e.way.First+i, scheme, s.Written))
			}
		}},
	{Name: "gunicorn", About: "GUNICORN_FD=3,4, GUNICORN_PID (systemd does as well)", Stop: syscall.SIGTERM, First: 3,
		environment: func(e *environment) {
			e.set("GUNICORN_FD", e.numbers())
			e.set("GUNICORN_PID", strconv.Itoa(e.parent))
		}},
	{Name: "fpm", About: "FPM_SOCKETS=HOST:PORT=3,PATH=4, the address as in listen = (stops by QUIT)", Stop: syscall.SIGQUIT, First: 3,
		environment: func(e *environment) {
			e.set("FPM_SOCKETS", e.join(",", func(fd int, s Socket) string { return fmt.Sprintf("%s=%d", s.Bound, fd) }))
		}},
	{Name: "starter", About: "SERVER_STARTER_PORT=HOST:PORT=3;PATH=4, as Server::Starter", Stop: syscall.SIGTERM, First: 3,
		environment: func(e *environment) {
			e.set("SERVER_STARTER_PORT", e.join(";", func(fd int, s Socket) string { return fmt.Sprintf("%s=%d", s.Written, fd) }))
			e.set("SERVER_STARTER_GENERATION", strconv.Itoa(e.Generation))
		}},
	{Name: "fd0", About: "the only socket as standard input, as inetd's wait", Stop: syscall.SIGTERM, First: 0, Most: 1},
}

// variables are those of all ways; a trailing * is a prefix. What the caller's own manager said in
// them is not for the program.
var variables = []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", "NGINX", "UNICORN_FD", "PUMA_INHERIT_*",
	"GUNICORN_FD", "GUNICORN_PID", "FPM_SOCKETS", "SERVER_STARTER_PORT", "SERVER_STARTER_GENERATION"}

// Find returns the way of that name.
func Find(name string) (Way, error) {
	for _, w := range Ways {
		if w.Name == name {
			return w, nil
		}
	}
	return Way{}, errors.Errorf("no way to inherit is called %q: one of %s", name, strings.Join(Names(), ", "))
}

// Names returns the names of all ways.
func Names() (names []string) {
	for _, w := range Ways {
		names = append(names, w.Name)
	}
	return names
}

// Check says whether a program of this way can inherit n sockets.
func (w Way) Check(n int) error {
	if w.Most > 0 && n > w.Most {
		return errors.Errorf("--as %s takes %d socket, not %d", w.Name, w.Most, n)
	}
	return nil
}

// A Socket is what a program may be told about one that it inherits.
type Socket struct {
	FD      int    `json:"fd"`
	Name    string `json:"name,omitempty"`
	Written string `json:"written"`
	Bound   string `json:"bound"`
	Local   bool   `json:"local,omitempty"`
}

// Sockets describes open sockets.
func Sockets(open []*address.Socket) (s []Socket) {
	for _, o := range open {
		s = append(s, Socket{FD: o.FD, Name: o.Name, Written: o.Written(), Bound: o.Bound, Local: o.AtPath()})
	}
	return s
}

// environment is that of one program in the making.
type environment struct {
	*Program
	way         Way
	pid, parent int
	vars        []string
}

func (e *environment) set(name, value string) { e.vars = append(e.vars, name+"="+value) }

func (e *environment) join(by string, f func(fd int, s Socket) string) string {
	var parts []string
	for i, s := range e.Sockets {
		parts = append(parts, f(e.way.First+i, s))
	}
	return strings.Join(parts, by)
}

func (e *environment) numbers() string {
	return e.join(",", func(fd int, _ Socket) string { return strconv.Itoa(fd) })
}

// Environment returns the environment for the program, made of env, in a process with that pid and parent.
func (p *Program) Environment(env []string, pid, parent int) ([]string, error) {
	way, err := Find(p.Way)
	if err != nil {
		return nil, err
	}
	e := environment{Program: p, way: way, pid: pid, parent: parent}
	for _, v := range env {
		if name, _, _ := strings.Cut(v, "="); !ours(name) {
			e.vars = append(e.vars, v)
		}
	}
	if way.environment != nil && len(p.Sockets) > 0 {
		way.environment(&e)
	}
	return e.vars, nil
}

func ours(name string) bool {
	for _, v := range variables {
		if prefix, ok := strings.CutSuffix(v, "*"); ok && strings.HasPrefix(name, prefix) || v == name {
			return true
		}
	}
	return false
}
