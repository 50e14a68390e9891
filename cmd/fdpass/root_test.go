package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		told string
	}{
		{nil, 0, ""},
		{errors.New("no"), 1, "fdpass: no\n"},
		{usagef("no flag %q", "x"), 2, "fdpass: no flag \"x\"\n"},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), 124, "fdpass: wait: context deadline exceeded\n"},
		{exec.ErrNotFound, 127, "fdpass: " + exec.ErrNotFound.Error() + "\n"},
		{&exitError{code: 143}, 143, ""},
	} {
		var told strings.Builder
		if code := exitCode(&told, c.err); code != c.code || told.String() != c.told {
			t.Errorf("%v: code %d and %q, want %d and %q", c.err, code, told.String(), c.code, c.told)
		}
	}
}
