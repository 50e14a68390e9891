//go:build unix && !linux

package systemd

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

var errNoMemFD = sysfd.Unsupported(unix.ENOSYS)

// monotonic returns 0: no manager that asks for the time runs here.
func monotonic() time.Duration { return 0 }

// stamp returns nil: nobody writes in another process's name here.
func stamp(int) []byte { return nil }

func createMemFD(string) (*os.File, error) { return nil, errNoMemFD }

func seal(int) error { return errNoMemFD }

func sealed(int) bool { return false }
