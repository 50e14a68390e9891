package ci

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test and every protection that docs/guarantees.md names exists, and every protection is on the page.
func TestGuarantees(t *testing.T) {
	page, err := os.ReadFile("../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	err = filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(b), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 50 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range named {
		if !tests[m[1]] {
			t.Errorf("the page names %s, and there is no such test", m[1])
		}
	}

	takeout, err := os.ReadFile("takeout.go")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t\{"([a-z-]+)", "(.*?)",.* "(Test\w+)`).FindAllStringSubmatch(string(takeout), -1) {
		have[m[1]] = true
		if !tests[m[3]] {
			t.Errorf("%s is held by %s, and there is no such test", m[1], m[3])
		}
	}
	onPage := map[string]bool{}
	for _, m := range regexp.MustCompile(`\b(scm|pair|cred|handoff|systemd|fdpass)-[a-z-]+\b`).FindAllString(string(page), -1) {
		onPage[m] = true
	}
	for name := range onPage {
		if !have[name] {
			t.Errorf("the page names %s, which takeout does not know", name)
		}
	}
	for name := range have {
		if !onPage[name] {
			t.Errorf("takeout knows %s, and the page does not", name)
		}
	}
}
