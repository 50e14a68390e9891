//go:build unix && !darwin && !freebsd && !linux

package credentials

import (
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

func peer(int) (Cred, error) { return Cred{}, sysfd.Unsupported(unix.ENOPROTOOPT) }

func peerGroups(int) ([]uint32, error) { return nil, sysfd.Unsupported(unix.ENOPROTOOPT) }

func peerLabel(int) (string, error) { return "", sysfd.Unsupported(unix.ENOPROTOOPT) }

func peerProcess(int) (*Process, error) { return nil, sysfd.Unsupported(unix.ENOPROTOOPT) }
