//go:build linux

package scm_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// spawn starts another program with one end of a pair as descriptor 3.
func spawn(t *testing.T, style socketpair.Style, name string, args ...string) *scm.Conn {
	t.Helper()
	parent, child, err := socketpair.ForChild(style)
	if err != nil {
		t.Fatal(err)
	}
	c, err := scm.NewConn(parent)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{child}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child.Close()
	t.Cleanup(func() {
		c.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return c
}

func TestPythonSends(t *testing.T) {
	python := testutil.NeedProgram(t, "python3")
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			c := spawn(t, style, python, "testdata/peer.py", "send")
			m, err := c.Receive(make([]byte, 100), 3)
			if err != nil || string(m.Data) != "three files" || m.Files.Len() != 3 {
				t.Fatalf("%q with %d, %v", m.Data, m.Files.Len(), err)
			}
			defer m.Close()
			for i := range 3 {
				f := m.Files.Take(i)
				defer f.Close()
				if b, err := io.ReadAll(f); err != nil || string(b) != fmt.Sprintf("file %d", i) {
					t.Errorf("file %d holds %q, %v", i, b, err)
				}
			}
		})
	}
}

func TestForeignEcho(t *testing.T) {
	python := testutil.NeedProgram(t, "python3")
	compiled := filepath.Join(t.TempDir(), "peer")
	if out, err := exec.Command(testutil.NeedProgram(t, "cc"), "-Wall", "-Werror", "-o", compiled, "testdata/peer.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, peer := range [][]string{{python, "testdata/peer.py", "echo"}, {compiled}} {
		for _, style := range styles {
			for _, n := range []int{1, 2, 253} {
				t.Run(fmt.Sprintf("%s/%v/%d", filepath.Base(peer[0]), style, n), func(t *testing.T) {
					testutil.NoLeaks(t)
					sent := numbers(files(t, n))
					c := spawn(t, style, peer[0], peer[1:]...)
					if err := c.SendFDs([]byte("hello"), sent); err != nil {
						t.Fatal(err)
					}
					m, err := c.Receive(make([]byte, 100), n)
					if err != nil || string(m.Data) != "HELLO" || m.Files.Len() != n {
						t.Fatalf("%q with %d, %v", m.Data, m.Files.Len(), err)
					}
					defer m.Close()
					for i := range n {
						f := m.Files.Take(i)
						defer f.Close()
						if !testutil.SameFile(t, numbers([]*os.File{f})[0], sent[n-1-i]) {
							t.Errorf("descriptor %d is another file", i)
						}
					}
				})
			}
		}
	}
}

// A Python peer sees our credentials beside the descriptors.
func TestPythonSeesCredentials(t *testing.T) {
	python := testutil.NeedProgram(t, "python3")
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			c := spawn(t, style, python, "testdata/peer.py", "creds")
			p := make([]byte, 100)
			if m, err := c.Receive(p, 0); err != nil || string(m.Data) != "ready" {
				t.Fatalf("%q, %v", m.Data, err)
			}
			if err := c.Send([]byte("x"), files(t, 1)[0], files(t, 1)[0]); err != nil {
				t.Fatal(err)
			}
			m, err := c.Receive(p, 0)
			if want := fmt.Sprintf("pid %d uid %d with 2", os.Getpid(), os.Getuid()); err != nil || string(m.Data) != want {
				t.Errorf("%q, %v; want %q", m.Data, err, want)
			}
		})
	}
}
