//go:build unix

package testutil

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var built struct {
	sync.Mutex
	dir      string
	programs map[string]program
}

type program struct {
	path string
	err  error
}

// Build returns the path of a program of this module, such as
// "github.com/fdkit/fdkit/cmd/fdpass": built once in a run of the tests, with the race detector if
// they have it, in a folder of its own that every user can read. A package that builds calls [Main].
func Build(t testing.TB, pkg string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	p, ok := built.programs[pkg]
	if !ok {
		p.path, p.err = build(pkg)
		if built.programs == nil {
			built.programs = make(map[string]program)
		}
		built.programs[pkg] = p
	}
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.path
}

func build(pkg string) (string, error) {
	path := filepath.Join(os.Getenv(builtVariable), filepath.Base(pkg))
	if _, err := os.Stat(path); err == nil && os.Getenv(builtVariable) != "" {
		return path, nil
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "fdkit-build-")
		if err != nil {
			return "", err
		}
		built.dir = dir
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", err
		}
	}
	path = filepath.Join(built.dir, filepath.Base(pkg))
	args := []string{"build", "-o", path}
	if Race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return path, cmd.Run()
}

// builtVariable names, in the environment of tests that run once more, the folder of what is built already.
const builtVariable = "FDKIT_TEST_BUILT"

func builtDir() string {
	built.Lock()
	defer built.Unlock()
	return built.dir
}

func removeBuilt() {
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
}
