package credentials

import (
	"os"

	"golang.org/x/sys/unix"
)

func peer(fd int) (Cred, error) {
	x, err := xucred(fd)
	if err != nil {
		return Cred{}, err
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		pid = 0
	}
	return Cred{PID: pid, UID: x.Uid, GID: x.Groups[0]}, nil
}

func xucred(fd int) (*unix.Xucred, error) {
	x, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	return peerXucred(x, os.NewSyscallError("getsockopt", err))
}
