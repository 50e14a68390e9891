//go:build linux

package main

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// binary is the path of the program, as go build makes it.
func binary(t testing.TB) string {
	t.Helper()
	return testutil.Build(t, "github.com/fdkit/fdkit/cmd/fdpass")
}
