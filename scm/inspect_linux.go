package scm

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const openPath = unix.O_PATH

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// anonymous are the kinds that have no type of their own in st_mode.
var anonymous = map[string]Kind{
	"[eventpoll]": Epoll, "[eventfd]": EventFD, "[timerfd]": TimerFD, "[signalfd]": SignalFD,
	"inotify": Inotify, "[fanotify]": Fanotify, "[io_uring]": IOURing, "[userfaultfd]": UserFaultFD,
	"[pidfd]": PIDFD,
}

// inspectSystem tells apart what fstat(2) does not.
func inspectSystem(fd int, info *Info) {
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil {
		info.Sealed = seals
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return
	}
	info.Name = name
	if rest, ok := strings.CutPrefix(name, "anon_inode:"); ok {
		info.Kind = OtherKind
		if kind, ok := anonymous[rest]; ok {
			info.Kind = kind
		}
		return
	}
	switch {
	case info.Kind == File && strings.HasPrefix(name, "/memfd:"):
		info.Kind = MemFD
	case fsType(fd) == unix.PID_FS_MAGIC:
		info.Kind = PIDFD
	case fsType(fd) == unix.NSFS_MAGIC:
		info.Kind = Namespace
	}
}

func fsType(fd int) int64 {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0
	}
	return int64(fs.Type)
}

func inspectSystemSocket(fd int, s *SocketInfo) {
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
		s.Domain = domain
	}
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil {
		s.Protocol = protocol
	}
	s.Cookie = cookieOf(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		s.NetNS = cookie
	}
}
