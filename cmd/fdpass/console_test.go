//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A consoleBlock is one session in a page.
type consoleBlock struct {
	page     string
	line     int // of its fence
	commands []consoleCommand
}

type consoleCommand struct {
	line int
	text string   // may be several lines, as after a backslash or in a here-document
	want []string // lines
}

func consoleBlocks(page string) ([]consoleBlock, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	var blocks []consoleBlock
	inside := false
	for i, line := range strings.Split(string(text), "\n") {
		trimmed := strings.TrimLeft(line, " ")
		switch {
		case !inside && trimmed == "```console":
			inside = true
			blocks = append(blocks, consoleBlock{page: page, line: i + 1})
		case inside && trimmed == "```":
			inside = false
		case inside:
			b := &blocks[len(blocks)-1]
			if err := b.add(line, i+1); err != nil {
				return nil, err
			}
		}
	}
	return blocks, nil
}

func (b *consoleBlock) add(line string, number int) error {
	last := len(b.commands) - 1
	switch {
	case strings.HasPrefix(line, "$ "):
		b.commands = append(b.commands, consoleCommand{line: number, text: line[2:]})
	case last < 0:
		return fmt.Errorf("%s:%d: a console block begins with a line \"$ COMMAND\"", b.page, number)
	case strings.HasPrefix(line, "> "):
		b.commands[last].text += "\n" + line[2:]
	default:
		b.commands[last].want = append(b.commands[last].want, line)
	}
	return nil
}

// run runs the block in one bash, which tells where the output of each command ends.
func (b *consoleBlock) run(t *testing.T, path string) {
	const end = "--- end of command 7c1f"
	var script strings.Builder
	script.WriteString("exec 2>&1\n")
	for _, c := range b.commands {
		fmt.Fprintf(&script, "%s\necho '%s'\n", c.text, end)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "--norc", "--noprofile", "-c", script.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"), "HOME="+dir, "GORACE=atexit_sleep_ms=0", "LC_ALL=C.UTF-8")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	// What the session leaves behind ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if err != nil {
		t.Fatalf("%s:%d: %v\n%s", b.page, b.line, err, out.String())
	}
	got := strings.Split(out.String(), end+"\n")
	for i, c := range b.commands {
		if i >= len(got)-1 {
			t.Fatalf("%s:%d: %s: the session ended before it; all it said:\n%s", b.page, c.line, c.text, out.String())
		}
		if !c.matches(got[i]) {
			t.Errorf("%s:%d: %s\nprints\n%sand the page says\n%s", b.page, c.line, c.text, got[i], strings.Join(c.want, "\n"))
		}
	}
}

// blanks are of one width: the columns of a table are as wide as what is in them, a pid of three digits say.
var blanks = regexp.MustCompile(" +")

func (c *consoleCommand) matches(got string) bool {
	got = strings.ReplaceAll(blanks.ReplaceAllString(got, " "), " \n", "\n")
	pattern := "^"
	for _, line := range c.want {
		line = blanks.ReplaceAllString(line, " ")
		if line == "…" {
			pattern += "(?:.*\n)*?"
			continue
		}
		parts := strings.Split(line, "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern += strings.Join(parts, ".*?") + "\n"
	}
	return regexp.MustCompile(pattern + "$").MatchString(got)
}

func TestConsoleMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		match     bool
	}{
		{"a\nb", "a\nb\n", true},
		{"a\nb", "a\n", false},
		{"a", "a\nb\n", false},
		{"pid …, uid 0", "pid 71, uid 0\n", true},
		{"pid …, uid 0", "pid 71\n, uid 0\n", false},
		{"a\n…\nz", "a\nb\nc\nz\n", true},
		{"a\n…", "b\n", false},
		{"1.5", "1x5\n", false},
		{"PID  UP", "PID    UP   \n", true},
		{"PID  UP", "PIDUP\n", false},
	} {
		command := consoleCommand{want: strings.Split(c.want, "\n")}
		if command.matches(c.got) != c.match {
			t.Errorf("%q and %q: match %v, want %v", c.want, c.got, !c.match, c.match)
		}
	}
	if none := (&consoleCommand{}); !none.matches("") || none.matches("x\n") {
		t.Error("a command without output")
	}
}
