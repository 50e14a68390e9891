package main

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// A payload is what travels in each message: a byte and some open files, in every form in which a contender
// may want them.
type payload struct {
	data    []byte
	numbers []int
	files   []*os.File
	conns   []syscall.Conn
}

func newPayload(count int) (*payload, error) {
	p := &payload{data: []byte("x")}
	for range count {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			p.close()
			return nil, os.NewSyscallError("open", err)
		}
		f := os.NewFile(uintptr(fd), "/dev/null")
		p.numbers, p.files, p.conns = append(p.numbers, fd), append(p.files, f), append(p.conns, f)
	}
	return p, nil
}

// newSockets makes a payload of listening sockets. It has no files.
func newSockets(count int) (*payload, error) {
	p := &payload{data: []byte("x")}
	for range count {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			p.close()
			return nil, err
		}
		p.conns = append(p.conns, ln)
		if err := sysfd.Control(ln, func(fd int) error {
			p.numbers = append(p.numbers, fd)
			return nil
		}); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *payload) close() {
	for _, c := range p.conns {
		_ = c.(io.Closer).Close()
	}
}

// closeEach closes descriptors as most programs do.
func closeEach(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// closeRuns closes descriptors as users of the raw tier do: a run of numbers with one call.
func closeRuns(fds []int) {
	for i := 0; i < len(fds); {
		j := i + 1
		for j < len(fds) && fds[j] == fds[j-1]+1 {
			j++
		}
		if j == i+1 || unix.CloseRange(uint(fds[i]), uint(fds[j-1]), 0) != nil {
			closeEach(fds[i:j])
		}
		i = j
	}
}
