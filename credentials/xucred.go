//go:build darwin || freebsd

package credentials

import (
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// peerXucred tells a socket without a peer from one that has none to tell.
func peerXucred(x *unix.Xucred, err error) (*unix.Xucred, error) {
	switch {
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOPROTOOPT):
		return nil, ErrNoPeer
	case err != nil:
		return nil, err
	case x.Ngroups < 1:
		return nil, ErrNoPeer // the first group is the effective gid
	}
	return x, nil
}

func peerGroups(fd int) ([]uint32, error) {
	x, err := xucred(fd)
	if err != nil {
		return nil, err
	}
	return x.Groups[1:min(int(x.Ngroups), len(x.Groups))], nil
}

func peerLabel(int) (string, error) { return "", sysfd.Unsupported(unix.ENOPROTOOPT) }

func peerProcess(int) (*Process, error) { return nil, sysfd.Unsupported(unix.ENOPROTOOPT) }
