//go:build linux

package handoff

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shipped are the defaults of programs that are not this test.
var shipped = defaults

// The defaults are those of the README.
func TestDefaultDeadlines(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z][A-Za-z]+)`: [^|]*\\| ([0-9]+ m?s) \\|").FindAllStringSubmatch(string(page), -1) {
		told[row[1]] = row[2]
	}
	have := reflect.ValueOf(shipped)
	for i := range have.NumField() {
		name := have.Type().Field(i).Name
		want, err := time.ParseDuration(strings.ReplaceAll(told[name], " ", ""))
		if got := time.Duration(have.Field(i).Int()); err != nil || got != want {
			t.Errorf("%s is %v; the README says %q", name, got, told[name])
		}
		delete(told, name)
	}
	if len(told) > 0 {
		t.Errorf("the README tells of %v", told)
	}
}
