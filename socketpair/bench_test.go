//go:build linux

package socketpair_test

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/socketpair"
)

// BenchmarkPair makes a pair and closes it. "plain" is the system calls alone, "net" the way that
// everybody writes by hand.
func BenchmarkPair(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			unix.Close(fds[0])
			unix.Close(fds[1])
		}
	})
	b.Run("net", func(b *testing.B) {
		for b.Loop() {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				b.Fatal(err)
			}
			for _, fd := range fds {
				f := os.NewFile(uintptr(fd), "")
				c, err := net.FileConn(f)
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
				c.Close()
			}
		}
	})
	b.Run("Create", func(b *testing.B) {
		for b.Loop() {
			x, y, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				b.Fatal(err)
			}
			x.Close()
			y.Close()
		}
	})
	b.Run("New", func(b *testing.B) {
		for b.Loop() {
			x, y, err := socketpair.New(socketpair.Stream)
			if err != nil {
				b.Fatal(err)
			}
			x.Close()
			y.Close()
		}
	})
}
