package credentials

import (
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

func peer(fd int) (Cred, error) {
	cred, err := peerOfConnection(fd)
	if err != nil {
		return Cred{}, err
	}
	// A listener, which a *net.UnixConn can be as well (net.FileConn), answers with whoever called listen.
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening != 0 {
		return Cred{}, ErrNoPeer
	}
	return cred, nil
}

// peerOfConnection is peer for what is not a listener.
func peerOfConnection(fd int) (Cred, error) {
	var ucred [3]uint32 // pid, uid, gid
	if _, err := getsockoptWords(fd, unix.SO_PEERCRED, ucred[:]); err != nil {
		return Cred{}, os.NewSyscallError("getsockopt", err)
	}
	cred := Cred{PID: int(int32(ucred[0])), UID: ucred[1], GID: ucred[2]}
	// {0, -1, -1} is no peer, and no error; pid 0 with a uid is a peer outside our pid namespace.
	if cred.UID == noID {
		return Cred{}, ErrNoPeer
	}
	return cred, nil
}

func peerGroups(fd int) ([]uint32, error) {
	if _, err := peer(fd); err != nil {
		return nil, err
	}
	groups := make([]uint32, 32)
	for {
		n, err := getsockoptWords(fd, unix.SO_PEERGROUPS, groups)
		switch {
		case err == unix.ERANGE && n > len(groups):
			groups = make([]uint32, n)
		case err == unix.ENODATA:
			return nil, ErrNoPeer
		case err == unix.ENOPROTOOPT:
			return nil, sysfd.Unsupported(os.NewSyscallError("getsockopt", err))
		case err != nil:
			return nil, os.NewSyscallError("getsockopt", err)
		default:
			return groups[:n], nil
		}
	}
}

func peerLabel(fd int) (string, error) {
	label, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_PEERSEC)
	if err == unix.ENOPROTOOPT || err == unix.EOPNOTSUPP {
		return "", sysfd.Unsupported(os.NewSyscallError("getsockopt", err))
	}
	return label, os.NewSyscallError("getsockopt", err)
}

func peerProcess(fd int) (*Process, error) {
	cred, err := peer(fd)
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch err {
	case nil:
		return newProcess(os.NewFile(uintptr(pidfd), "pidfd"), cred.PID), nil
	case unix.EINVAL, unix.ESRCH:
		return nil, ErrPeerGone
	case unix.ENODATA:
		return nil, ErrNoPeer
	case unix.ENOPROTOOPT:
		return nil, sysfd.Unsupported(os.NewSyscallError("getsockopt", err))
	case unix.EMFILE:
		return nil, errors.WithMessage(os.NewSyscallError("getsockopt", err), sysfd.Usage())
	}
	return nil, os.NewSyscallError("getsockopt", err)
}
