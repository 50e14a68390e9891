package credentials

import (
	"os"

	"golang.org/x/sys/unix"
)

// peer leaves the pid out: x/sys does not show where FreeBSD 13 puts it.
func peer(fd int) (Cred, error) {
	x, err := xucred(fd)
	if err != nil {
		return Cred{}, err
	}
	return Cred{UID: x.Uid, GID: x.Groups[0]}, nil
}

func xucred(fd int) (*unix.Xucred, error) {
	x, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	return peerXucred(x, os.NewSyscallError("getsockopt", err))
}
