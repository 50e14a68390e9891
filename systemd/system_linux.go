package systemd

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/cmsg"
)

// monotonic returns the time of CLOCK_MONOTONIC. Package time does not tell it.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// stamp makes the control message that puts pid in place of the sender's, nil if they are one.
func stamp(pid int) []byte {
	if pid == os.Getpid() {
		return nil
	}
	return cmsg.AppendCredentials(nil, cmsg.Credentials{PID: pid, UID: uint32(unix.Getuid()), GID: uint32(unix.Getgid())})
}

// allSeals make a memfd what it is for ever.
const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// createMemFD gives the caller an empty file in memory.
func createMemFD(name string) (*os.File, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func seal(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, allSeals)
	return os.NewSyscallError("fcntl", err)
}

// sealed reports whether nobody can change the file any more.
func sealed(fd int) bool {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	return err == nil && seals&allSeals == allSeals
}
