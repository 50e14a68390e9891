package testutil

import (
	"os"
	"testing"
)

// ShortDir makes a folder for sockets: a Unix path has room for 107 bytes (unix(7)), and that of t.TempDir is as long as
// the name of the test.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fd")
	if len(dir) > 60 {
		_ = os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "fd")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
