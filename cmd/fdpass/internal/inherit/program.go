package inherit

import (
	"encoding/json"
	"os/exec"
	"path/filepath"

	"github.com/pkg/errors"
)

// A Program is one that is to inherit sockets.
type Program struct {
	Way        string   `json:"as"`
	Sockets    []Socket `json:"sockets,omitempty"` // with the numbers under which they are in this process
	Generation int      `json:"generation,omitempty"`
	NoPID      bool     `json:"noPID,omitempty"` // without LISTEN_PID, for a wrapper that forks
	Dir        string   `json:"dir,omitempty"`   // where it starts, "" for here

	Path string   `json:"-"` // of the executable, from Look
	Args []string `json:"-"` // with its name in front
}

// Stub is the name of fdpass's hidden command that becomes a program: "fdpass __become PROGRAM PATH ARG…".
//
// A child's LISTEN_PID has to be known to the child alone, as its pid is not known before fork(2), and
// between that and exec(2) Go runs nothing of ours. So a child is fdpass again first. It also has a
// descriptor table of its own, in which the numbers from 3 are free: where the runtime's poller, which a
// bigger program has started, sits on 3, dup2(2) over it would be the end of the runtime.
const Stub = "__become"

// Command returns the arguments of the stub, for "/proc/self/exe".
func (p *Program) Command() ([]string, error) {
	said, err := json.Marshal(p)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	return append([]string{"fdpass", Stub, string(said), p.Path}, p.Args...), nil
}

// ParseCommand reads the arguments behind the stub's name.
func ParseCommand(args []string) (*Program, error) {
	if len(args) < 3 {
		return nil, errors.Errorf("%s is for fdpass itself", Stub)
	}
	p := &Program{Path: args[1], Args: args[2:]}
	if err := json.Unmarshal([]byte(args[0]), p); err != nil {
		return nil, errors.WithMessagef(err, "%s is for fdpass itself", Stub)
	}
	return p, nil
}

// Look finds an executable as a shell does, from the folder dir. The error is an exec.Error: exec.ErrNotFound for
// a name, os.ErrNotExist for a path, os.ErrPermission, or another.
func Look(name, dir string) (string, error) {
	if filepath.Base(name) != name && !filepath.IsAbs(name) && dir != "" {
		name = filepath.Join(dir, name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}
