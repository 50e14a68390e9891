package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fdkit/fdkit/internal/testutil"
)

// The generations are this test binary again, as os.Executable says.
func TestMain(m *testing.M) {
	if os.Getenv(modeVariable) != "" {
		crash()
		main()
		os.Exit(0)
	}
	testutil.Main(m)
}

var program = testutil.NewHelper("fdpass", func([]string) error { main(); return nil })

// crashVariable is a folder in which each server process makes itself known. The second one ends at once.
const crashVariable = "FDPASS_TEST_CRASH"

func crash() {
	folder := os.Getenv(crashVariable)
	for number := 1; folder != ""; number++ {
		if os.Mkdir(filepath.Join(folder, fmt.Sprint(number)), 0o700) == nil {
			if number == 2 {
				os.Exit(3)
			}
			return
		}
	}
}

var modes = []mode{child, takeover}

// slow are the arguments for a machine that does much else: nobody knows how many requests it answers in its slowest second.
func slow(args ...string) []string { return append(args, "--every", "200ms", "--rate", "0") }

func TestProgram(t *testing.T) {
	for _, m := range modes {
		t.Run(string(m), func(t *testing.T) { testProgram(t, m) })
	}
}

func testProgram(t *testing.T, m mode) {
	testutil.NoLeaks(t)
	plot := filepath.Join(t.TempDir(), "requests.svg")
	var stdout, stderr bytes.Buffer
	cmd := program.Command(t, slow("--mode", string(m), "--upgrades", "4", "--plot", plot)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	out := stdout.String()
	rows := regexp.MustCompile(`(?m)^ *(\d+) +(\d+) +(–|[\d.]+ ms) +(–|[\d.]+ ms) +([\d.]+ ms) +([\d,]+)$`).FindAllStringSubmatch(out, -1)
	if len(rows) != 5 {
		t.Fatalf("%d rows of generations in\n%s", len(rows), out)
	}
	pids := map[string]bool{}
	for i, row := range rows {
		pids[row[2]] = true
		if row[1] != fmt.Sprint(i+1) || (row[3] == "–") != (i == 0) || row[6] == "0" {
			t.Errorf("row %d is %q", i+1, row[0])
		}
	}
	if len(pids) != 5 {
		t.Errorf("%d processes in\n%s", len(pids), out)
	}
	for _, want := range []string{`failed requests +0\n`, `on new connections +[1-9]`, `kept alive +[1-9]`, `kept alive, with pauses +[1-9]`, `around a hand-over +\d`, `away from them +\d`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if svg, err := os.ReadFile(plot); err != nil || !bytes.Contains(svg, []byte("generation 5")) {
		t.Errorf("plot: %v, %d bytes", err, len(svg))
	}
}

// A successor that ends before it serves leaves the old generation serving, which says why; the
// next attempt succeeds.
func TestSuccessorCrashes(t *testing.T) {
	for _, m := range modes {
		t.Run(string(m), func(t *testing.T) {
			testutil.NoLeaks(t)
			t.Setenv(crashVariable, t.TempDir())
			t.Setenv("GORACE", "atexit_sleep_ms=0")
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), slow("--mode", string(m), "--upgrades", "2"), &stdout, &stderr)
			out, complaint := stdout.String(), stderr.String()
			if status != statusFailed || !regexp.MustCompile(`(?m)^fdpass: hand over to generation 2: .`).MatchString(complaint) {
				t.Errorf("status %d: %s", status, complaint)
			}
			if !regexp.MustCompile(`(?m)^failed requests +0$`).MatchString(out) || !regexp.MustCompile(`(?m)^ +2 +\d+ +[\d.]+ ms`).MatchString(out) {
				t.Errorf("requests failed, or there is no second generation:\n%s", out)
			}
		})
	}
}

// Whoever dies in the midst of an upgrade, somebody serves on, and the upgrades after that succeed.
func TestKill(t *testing.T) {
	usual := killMoment
	killMoment = time.Minute
	t.Cleanup(func() { killMoment = usual })
	for _, m := range modes {
		for _, k := range kills {
			t.Run(string(m)+"/"+k.String(), func(t *testing.T) {
				testutil.NoLeaks(t)
				t.Setenv("GORACE", "atexit_sleep_ms=0")
				var stdout, stderr bytes.Buffer
				// Where nobody has the socket for a while, a client of another program must not get its port.
				status := run(t.Context(), slow("--mode", string(m), "--upgrades", "3", "--kill", k.String(), "--addr", testutil.FreeAddress(t)), &stdout, &stderr)
				out := stdout.String()
				if status != 0 || stderr.Len() > 0 {
					t.Errorf("status %d: %s", status, stderr.String())
				}
				if !regexp.MustCompile(`(?m)^failed requests +0$`).MatchString(out) {
					t.Errorf("requests failed:\n%s", out)
				}
				died := `died with the killed +\d+   ` + k.String()
				rows, killed := 4, 1
				if k.who == "successor" && k.step != "serving" {
					died = `died with the killed +0   ` + k.String() // it had not accepted anything
					rows, killed = 3, 0
				}
				if !regexp.MustCompile(died).MatchString(out) {
					t.Errorf("no %q in\n%s", died, out)
				}
				if n := len(regexp.MustCompile(`(?m)^ +\d+ +\d+ +(–|[\d.]+ ms) +(–|[\d.]+ ms) +(killed|[\d.]+ ms) +(\?|[\d,]+)$`).FindAllString(out, -1)); n != rows {
					t.Errorf("%d rows of generations, want %d, in\n%s", n, rows, out)
				}
				if n := len(regexp.MustCompile(`(?m) killed +\?$`).FindAllString(out, -1)); n != killed {
					t.Errorf("%d generations were killed in\n%s", n, out)
				}
			})
		}
	}
}

// Control-C ends everything in good order, with a report.
func TestInterrupt(t *testing.T) {
	testutil.NoLeaks(t)
	var stdout, stderr bytes.Buffer
	addr := testutil.FreeAddress(t)
	cmd := program.Command(t, slow("--upgrades", "1000", "--addr", addr)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "in the midst of an upgrade", func() bool { // the program, and two of its servers
		return processesWith(addr) == 3
	})
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != statusInterrupted || stderr.String() != "fdpass: interrupted\n" || !strings.Contains(stdout.String(), "failed requests") {
		t.Errorf("%v: %s%s", cmd.ProcessState, stdout.String(), stderr.String())
	}
}

// processesWith counts the processes that have arg as an argument.
func processesWith(arg string) (n int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		if strings.Contains("\x00"+string(line), "\x00"+arg+"\x00") {
			n++
		}
	}
	return n
}

// The servers end with the program that started them, however that ends.
func TestKilled(t *testing.T) {
	testutil.NoLeaks(t)
	t.Setenv("TMPDIR", testutil.ShortDir(t)) // it leaves a folder, and its servers may end later than this test
	addr := testutil.FreeAddress(t)
	cmd := program.Command(t, slow("--upgrades", "1000", "--addr", addr)...)
	cmd.Stderr = nil // a server may find that nobody reads what it says
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dial := func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	testutil.Eventually(t, "the server serves", dial)
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	testutil.Eventually(t, "the server has ended", func() bool { return !dial() })
}

func TestTooSlow(t *testing.T) {
	testutil.NoLeaks(t)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"--upgrades", "0", "--rate", "100000000"}, &stdout, &stderr)
	if status != statusFailed || !strings.HasPrefix(stderr.String(), "fdpass: too few requests: ") {
		t.Errorf("status %d: %s", status, stderr.String())
	}
}

func TestAddressInUse(t *testing.T) {
	testutil.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var stdout bytes.Buffer
	var stderr bytes.Buffer
	cmd := program.Command(t, "--addr", ln.Addr().String())
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != statusFailed || !strings.Contains(stderr.String(), "address already in use") || stdout.Len() > 0 {
		t.Errorf("%v: %s%s", err, stdout.String(), stderr.String())
	}
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{[]string{"--help"}, 0, "go run ./examples/fdpass --upgrades 20", ""},
		{[]string{"-h"}, 0, "-plot FILE.svg", ""},
		{[]string{"--what"}, statusUsage, "", "flag provided but not defined"},
		{[]string{"5"}, statusUsage, "", `fdpass: unexpected argument "5", see --help`},
		{[]string{"-n", "-1"}, statusUsage, "", "fdpass: --upgrades and --rate cannot be negative"},
		{[]string{"--clients", "0"}, statusUsage, "", "more than 0"},
		{[]string{"--load", "all"}, statusUsage, "", "fdpass: --load all: it is new, keep, think or mix"},
		{[]string{"--mode", "magic"}, statusUsage, "", "fdpass: --mode magic: it is child or takeover"},
		{[]string{"--kill", "successor@home"}, statusUsage, "", "it is one of [successor@adopted "},
		{[]string{"--kill", "successor@ready", "-n", "0"}, statusUsage, "", "fdpass: --kill needs an upgrade"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), tt.args, &stdout, &stderr)
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%q: status %d, %q, %q", tt.args, status, stdout.String(), stderr.String())
		}
		if (tt.stdout == "") != (stdout.Len() == 0) || (tt.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: said too much: %q, %q", tt.args, stdout.String(), stderr.String())
		}
	}
}
