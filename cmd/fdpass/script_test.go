//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fdkit/fdkit/internal/testutil"
)

// TestScripts runs the terminal sessions of testdata/script, each in a folder of its own. Beside the commands
// of testscript there are
//
//	status N COMMAND…    runs COMMAND, which must end with the exit status N
//	await PATH           waits until PATH is there
//	serve PATH [NET]     listens at PATH (network unix, unixpacket or unixgram) until the script ends
//
// the conditions [root] and [program:NAME], and $ABSTRACT, an abstract name that is the script's own: those are the
// whole machine's.
func TestScripts(t *testing.T) {
	folder := filepath.Dir(binary(t))
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", folder+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("ABSTRACT", fmt.Sprintf("@fdpass-test-%d-%s", os.Getpid(), filepath.Base(env.WorkDir)))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": scriptStatus,
			"await":  scriptAwait,
			"serve":  scriptServe,
		},
		Condition: func(cond string) (bool, error) {
			if name, ok := cutProgram(cond); ok {
				_, err := exec.LookPath(name)
				if err != nil && os.Getenv("CI") != "" {
					return false, err // CI installs what the tests need
				}
				return err == nil, nil
			}
			return cond == "root" && os.Geteuid() == 0, nil
		},
	})
}

func cutProgram(cond string) (string, bool) {
	const prefix = "program:"
	if len(cond) > len(prefix) && cond[:len(prefix)] == prefix {
		return cond[len(prefix):], true
	}
	return "", false
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await PATH")
	}
	path := ts.MkAbs(args[0])
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("after 2 minutes there is no %s", args[0])
		}
	}
}

func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: serve PATH [NETWORK]")
	}
	addr := &net.UnixAddr{Name: ts.MkAbs(args[0]), Net: "unix"}
	if len(args) == 2 {
		addr.Net = args[1]
	}
	if addr.Net == "unixgram" {
		c, err := net.ListenUnixgram(addr.Net, addr)
		ts.Check(err)
		ts.Defer(func() { c.Close() })
		return
	}
	ln, err := net.ListenUnix(addr.Net, addr)
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
}

// TestCommands holds every command to what --help promises.
func TestCommands(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Hidden {
			continue
		}
		for what, has := range map[string]bool{
			"a Long":     c.Long != "",
			"an Example": c.Example != "",
			"a GroupID":  c.GroupID != "",
			"a RunE":     c.RunE != nil,
		} {
			if !has {
				t.Errorf("%s has not %s", c.CommandPath(), what)
			}
		}
	}
}

// The pages of docs and README.md say what fdpass prints: TestConsole runs them. A fenced block of console
// is a session of bash in an empty folder; what follows a line "$ COMMAND" is what COMMAND prints, on both
// standard output and standard error, and … stands for anything within a line, and alone on a line for any lines.
// What cannot run in a test is a block of sh.
func TestConsole(t *testing.T) {
	testutil.NeedProgram(t, "bash")
	for _, page := range []string{"../../README.md", "../../docs/recipes.md"} {
		blocks, err := consoleBlocks(page)
		if err != nil {
			t.Fatal(err)
		}
		if len(blocks) == 0 {
			t.Errorf("%s shows no session", page)
		}
		for _, b := range blocks {
			t.Run(filepath.Base(page)+":"+strconv.Itoa(b.line), func(t *testing.T) {
				t.Parallel()
				b.run(t, filepath.Dir(binary(t)))
			})
		}
	}
}
