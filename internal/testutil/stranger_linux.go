package testutil

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Stranger is the uid and the gid of whoever is none of the users of the tests.
const Stranger = 4200

// Trespass is the main of a [Helper] that tries everything that one can try at a path, and says what
// worked. Its arguments are the folder and the names in it. What [Helper.TrespassIn] starts is it as another user.
func Trespass(args []string) error {
	dir, names := args[0], args[1:]
	try := func(what string, f func() error) {
		if f() == nil {
			fmt.Println(what)
		}
	}
	own := filepath.Join(os.TempDir(), fmt.Sprint("fdkit-trespass-", os.Getpid()))
	defer os.Remove(own)
	for _, name := range names {
		path := filepath.Join(dir, name)
		for _, network := range []string{"unix", "unixpacket", "unixgram"} {
			try("connect "+name, func() error {
				c, err := net.Dial(network, path)
				if err == nil {
					c.Close()
				}
				return err
			})
		}
		try("open "+name, func() error {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
			if err == nil {
				f.Close()
			}
			return err
		})
		try("bind "+name, func() error {
			ln, err := net.Listen("unix", path)
			if err == nil {
				ln.(*net.UnixListener).SetUnlinkOnClose(false)
				ln.Close()
			}
			return err
		})
		try("unlink "+name, func() error { return os.Remove(path) })
		try("rename "+name, func() error { return os.Rename(path, path+".gone") })
		try("symlink "+name, func() error { return os.Symlink(nowhere, path) })
		try("replace "+name, func() error {
			_ = os.Remove(own) // of the last name
			if err := os.Symlink(nowhere, own); err != nil {
				return err
			}
			return os.Rename(own, path)
		})
		try("chmod "+name, func() error { return os.Chmod(path, 0o777) })
	}
	// Anybody who can read a folder can lock it, and keeps it locked until this process is let go.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	try("lock the folder", func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	fmt.Println("done")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// nowhere is what the stranger's links point to: a test that runs as root and follows one by mistake does no harm.
const nowhere = "/nonexistent/fdkit"

// TrespassIn runs [Trespass] as a stranger and returns what worked. It has its lock until the test ends.
func (h Helper) TrespassIn(t testing.TB, dir string, names ...string) (worked []string) {
	t.Helper()
	cmd := h.CommandAs(t, Stranger, Stranger, nil, append([]string{dir}, names...)...)
	lines := Begin(t, cmd)
	for lines.Scan() && lines.Text() != "done" {
		worked = append(worked, lines.Text())
	}
	if lines.Text() != "done" {
		t.Fatal("the helper did not finish")
	}
	return worked
}

// Begin starts a command that goes on until its standard input ends, which the end of the test does, and returns the
// lines of its output.
func Begin(t testing.TB, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return bufio.NewScanner(out)
}

// PublicDir makes a folder that every user can reach.
func PublicDir(t testing.TB, mode os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fdkit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}
