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
	"github.com/fdkit/fdkit/scm"
)

// The generations are this test binary again, as os.Executable says.
func TestMain(m *testing.M) {
	if generation := os.Getenv(generationVariable); generation != "" {
		crash(generation)
		main()
		os.Exit(0)
	}
	testutil.Main(m)
}

var program = testutil.NewHelper("fdpass", func([]string) error { main(); return nil })

// crashVariable makes the second generation end early, the first time: "WHEN|FILE", where FILE is
// made by the one that does.
const crashVariable = "FDPASS_TEST_CRASH"

func crash(generation string) {
	when, file, ok := strings.Cut(os.Getenv(crashVariable), "|")
	if !ok || generation != "2" {
		return
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	_ = f.Close()
	if when == "at once" {
		os.Exit(3)
	}
	c, err := scm.Inherit(3)
	if err == nil {
		err = meet(c, os.Getppid())
	}
	if err == nil {
		_, err = c.Receive(make([]byte, 64), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
	switch when {
	case "with the listener":
		os.Exit(3)
	case "when ready":
		_ = c.Send([]byte("ready"))
		_ = expect(c, "go")
		os.Exit(3)
	case "never, but talks nonsense":
		_ = c.Send([]byte("hello"))
	}
	_, _ = c.Receive(make([]byte, 64), 0)
	select {} // until it is killed
}

// slow are the arguments for a machine that does much else.
func slow(args ...string) []string { return append(args, "--every", "200ms", "--rate", "20") }

func TestProgram(t *testing.T) {
	testutil.NoLeaks(t)
	plot := filepath.Join(t.TempDir(), "requests.svg")
	var stdout, stderr bytes.Buffer
	cmd := program.Command(t, slow("--upgrades", "4", "--plot", plot)...)
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
	for _, tt := range []struct{ when, reason string }{
		{"at once", `has ended \(exit status 3\): credentials: exchange: the peer is gone.*`},
		{"with the listener", `has ended \(exit status 3\): waiting for "ready": EOF`},
		{"when ready", `has ended \(exit status 3\): waiting for "serving": EOF`},
		{"never, but talks nonsense", `has ended \(signal: killed\): received "hello" instead of "ready"`},
	} {
		t.Run(tt.when, func(t *testing.T) {
			testutil.NoLeaks(t)
			t.Setenv(crashVariable, tt.when+"|"+filepath.Join(t.TempDir(), "crashed"))
			t.Setenv("GORACE", "atexit_sleep_ms=0")
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), slow("--upgrades", "2"), &stdout, &stderr)
			out, complaint := stdout.String(), stderr.String()
			if status != statusFailed || !regexp.MustCompile(`^fdpass: hand over to generation 2: the successor, pid \d+, `+tt.reason+`\n$`).MatchString(complaint) {
				t.Errorf("status %d: %s", status, complaint)
			}
			if !regexp.MustCompile(`(?m)^failed requests +0$`).MatchString(out) || !regexp.MustCompile(`(?m)^ +2 +\d+ +[\d.]+ ms`).MatchString(out) {
				t.Errorf("requests failed, or there is no second generation:\n%s", out)
			}
		})
	}
}

// Control-C ends everything in good order, with a report.
func TestInterrupt(t *testing.T) {
	testutil.NoLeaks(t)
	var stdout, stderr bytes.Buffer
	cmd := program.Command(t, slow("--upgrades", "1000")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // in the midst of an upgrade or not
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != statusInterrupted || stderr.String() != "fdpass: interrupted\n" || !strings.Contains(stdout.String(), "failed requests") {
		t.Errorf("%v: %s%s", cmd.ProcessState, stdout.String(), stderr.String())
	}
}

// The servers end with the program that started them, however that ends.
func TestKilled(t *testing.T) {
	testutil.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
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
