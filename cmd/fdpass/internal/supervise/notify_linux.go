package supervise

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
	"github.com/fdkit/fdkit/scm"
)

// A notifySocket is the NOTIFY_SOCKET of one generation, sd_notify(3). It is an abstract name: a program
// that has changed its user can still write to it, no path is left behind, and the random part is known to
// this generation alone.
type notifySocket struct {
	name string // as in NOTIFY_SOCKET
	conn *scm.Conn
	raw  syscall.RawConn
}

func newNotifySocket(service string, generation int) (*notifySocket, error) {
	name := fmt.Sprintf("@fdpass/notify/%s/%d/%s", service, generation, rand.Text())
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		return nil, err
	}
	n, err := wrapNotifySocket(c, name)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return n, nil
}

// resumeNotifySocket takes over the number of one that was inherited.
func resumeNotifySocket(fd int, name string) (*notifySocket, error) {
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	c, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.Errorf("descriptor %d is no notification socket", fd)
	}
	n, err := wrapNotifySocket(u, name)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return n, nil
}

// wrapNotifySocket takes c over, if it succeeds.
func wrapNotifySocket(c *net.UnixConn, name string) (*notifySocket, error) {
	conn, err := scm.NewConn(c)
	if err != nil {
		return nil, err
	}
	if err := conn.SetPassCred(true); err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &notifySocket{name, conn, raw}, nil
}

// wait blocks until there is a message, which it leaves where it is, or until Close.
func (n *notifySocket) wait() error {
	return n.raw.Read(pollIn)
}

// readable reports whether a message waits. It is false of nil.
func (n *notifySocket) readable() (ready bool) {
	if n == nil {
		return false
	}
	_ = n.raw.Control(func(fd uintptr) { ready = pollIn(fd) })
	return ready
}

func pollIn(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// A notification is one message.
type notification struct {
	pid    int // of who wrote it, 0 if the kernel does not say, and of which user that is
	uid    uint32
	ready  bool
	status *string
	extend time.Duration
}

// longest is the most that a program may ask for at once.
const longest = 24 * time.Hour

// receive takes the message that wait saw. Descriptors that came with it are closed by done: for BARRIER=1 that is
// the answer, and nothing else is expected. Who sends others decides how long that takes; then it goes on in the
// background, and holds up no barrier.
func (n *notifySocket) receive() (m notification, done func(), err error) {
	message, err := n.conn.Receive(make([]byte, 64<<10), scm.MaxFDs)
	if err != nil {
		return m, nil, err
	}
	done = func() {
		fds := make([]int, message.Files.Len())
		for i := range fds {
			fds[i] = message.Files.TakeFD(i)
		}
		sysfd.DiscardLater(fds)
		_ = message.Close()
	}
	m = parseNotification(message.Data)
	if message.Sender != nil {
		m.pid, m.uid = message.Sender.PID, message.Sender.UID
	}
	return m, done, nil
}

func parseNotification(data []byte) (m notification) {
	for _, line := range strings.Split(string(data), "\n") {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "READY":
			m.ready = m.ready || value == "1"
		case "STATUS":
			value = printable(value)
			m.status = &value
		case "EXTEND_TIMEOUT_USEC":
			if us, err := strconv.ParseUint(value, 10, 62); err == nil {
				m.extend = time.Duration(min(us, uint64(longest/time.Microsecond))) * time.Microsecond
			}
		}
	}
	return m
}

func (n *notifySocket) close() {
	if n != nil {
		_ = n.conn.Close()
	}
}

// number returns the descriptor's number, which stays the socket's.
func (n *notifySocket) number() int { return number(n.conn) }

// believes reports whether a message is of the generation that pid leads. One whose writer has ended already
// cannot be judged by who that was: then it must be root's, this user's, or of a user that the program has
// become. Knowing the socket's name is nothing, it is in /proc/net/unix.
func believes(m *notification, leader int) bool {
	if m.pid == 0 {
		return false
	}
	belongs, ended := within(m.pid, leader)
	if !ended {
		return belongs
	}
	return m.uid == 0 || m.uid == uint32(os.Geteuid()) || slices.Contains(UsersOf(leader), m.uid)
}

// within reports whether a process belongs to the generation that pid leads: it is in its process group,
// or descends from it; or that it has ended.
func within(process, leader int) (belongs, ended bool) {
	for range 100 {
		if process == leader {
			return true, false
		}
		group, err := unix.Getpgid(process)
		if err != nil {
			return false, true
		}
		if group == leader {
			return true, false
		}
		if process = parent(process); process <= 1 {
			return false, false
		}
	}
	return false, false
}

// UsersOf returns the user ids of a process: real, effective, saved, and of the file system.
func UsersOf(pid int) (users []uint32) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			for _, id := range strings.Fields(ids) {
				if n, err := strconv.ParseUint(id, 10, 32); err == nil {
					users = append(users, uint32(n))
				}
			}
		}
	}
	return users
}

// parent returns the parent of a process by proc_pid_stat(5), 0 if it cannot be found out.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}
