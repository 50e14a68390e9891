package testutil

import "golang.org/x/sys/unix"

// Linger returns both ends of a TCP connection. The last close(2) of a waits for a minute, until peer, which does not
// read, is closed. The caller owns both.
func Linger() (a, peer int, err error) {
	a, peer = -1, -1
	defer func() {
		if err != nil {
			for _, fd := range []int{a, peer} {
				if fd >= 0 {
					_ = unix.Close(fd)
				}
			}
		}
	}()
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	ln, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return a, peer, err
	}
	defer unix.Close(ln)
	// What is sent goes on waiting: it fits into the one buffer and not into the other.
	if err := unix.SetsockoptInt(ln, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10); err != nil {
		return a, peer, err
	}
	if err := unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return a, peer, err
	}
	if err := unix.Listen(ln, 1); err != nil {
		return a, peer, err
	}
	where, err := unix.Getsockname(ln)
	if err != nil {
		return a, peer, err
	}
	if a, err = unix.Socket(unix.AF_INET, kind, 0); err != nil {
		return a, peer, err
	}
	if err := unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_SNDBUF, 64<<10); err != nil {
		return a, peer, err
	}
	if err := unix.SetsockoptLinger(a, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60}); err != nil {
		return a, peer, err
	}
	if err := unix.Connect(a, where); err != nil {
		return a, peer, err
	}
	if peer, _, err = unix.Accept4(ln, unix.SOCK_CLOEXEC); err != nil {
		return a, peer, err
	}
	for err == nil {
		err = unix.Sendto(a, make([]byte, 8<<10), unix.MSG_DONTWAIT, nil)
	}
	if err != unix.EAGAIN {
		return a, peer, err
	}
	return a, peer, nil
}
