package handoff

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// dropped asks for the counter that SO_RXQ_OVFL adds to datagrams (socket(7)). SO_MEMINFO (Linux 4.12)
// has it at any time and without a part in anybody's reads: it is the last of nine 32-bit numbers,
// SK_MEMINFO_DROPS.
func dropped(c syscall.Conn) (uint32, error) {
	return sysfd.Ask(c, func(fd int) (uint32, error) {
		// x/sys reads no array of numbers. In its largest structure the ninth is called Lost.
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_SOCKET, unix.SO_MEMINFO)
		if err != nil {
			return 0, os.NewSyscallError("getsockopt", err)
		}
		return info.Lost, nil
	})
}
