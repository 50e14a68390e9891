package supervise

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A relay passes on what a generation writes to its standard error, and remembers the end of it: the
// reason why it failed is the last thing that it said.
type relay struct {
	file *os.File // the read end, nonblocking, in the poller; nil if its end was seen by another fdpass
	raw  syscall.RawConn
	to   int

	mu   sync.Mutex // from read(2) to the end of write(2)
	tail struct {
		sync.Mutex
		text []byte
	}
	done chan struct{} // closed at the end
}

// tailSize is how much a relay remembers.
const tailSize = 2048

// newRelay takes fd over, the read end of a pipe; -1 if its end was seen before.
func newRelay(fd, to int, tail []byte) (*relay, error) {
	r := &relay{to: to, done: make(chan struct{})}
	r.tail.text = tail
	if fd < 0 {
		close(r.done)
		return r, nil
	}
	err := unix.SetNonblock(fd, true)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	r.file = os.NewFile(uintptr(fd), "stderr")
	if r.raw, err = r.file.SyscallConn(); err != nil {
		return nil, err // cannot be: it is open
	}
	go r.run()
	return r, nil
}

func (r *relay) run() {
	defer close(r.done)
	buf := make([]byte, 16<<10)
	for {
		open := true
		err := r.raw.Read(func(fd uintptr) bool {
			n, err := r.copy(int(fd), buf)
			open = n != 0
			return n > 0 || err != unix.EAGAIN
		})
		if err != nil || !open {
			break
		}
	}
	r.mu.Lock() // nobody copies the number for a replacement now
	defer r.mu.Unlock()
	_ = r.file.Close()
}

// copy passes on what there is, as one step: when mu is free, nothing was read that is not written.
func (r *relay) copy(fd int, buf []byte) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if n, err = unix.Read(fd, buf); err != unix.EINTR {
			break
		}
	}
	if n <= 0 {
		return n, err
	}
	r.tail.Lock()
	r.tail.text = append(r.tail.text, buf[:n]...)
	r.tail.text = r.tail.text[max(0, len(r.tail.text)-tailSize):]
	r.tail.Unlock()
	for rest := buf[:n]; len(rest) > 0; {
		w, err := unix.Write(r.to, rest)
		if err == unix.EAGAIN {
			poll := []unix.PollFd{{Fd: int32(r.to), Events: unix.POLLOUT}}
			_, _ = unix.Poll(poll, -1)
			continue
		}
		if err != nil && err != unix.EINTR {
			break // nobody reads our standard error: the program must not notice
		}
		rest = rest[max(w, 0):]
	}
	return n, nil
}

// drain waits until what is there now was passed on, not for long: the reader of our standard error, or whoever has
// inherited the program's, decides how long that takes.
func (r *relay) drain(until time.Time) {
	for ; !r.empty() && time.Now().Before(until); time.Sleep(time.Millisecond) {
	}
}

// empty reports whether all that was written has been passed on.
func (r *relay) empty() bool {
	select {
	case <-r.done:
		return true
	default:
	}
	if !r.mu.TryLock() {
		return false
	}
	defer r.mu.Unlock()
	more := false
	err := r.raw.Control(func(fd uintptr) { more = pollIn(fd) })
	return err != nil || !more
}

// pause stops passing on, between a read and the next; false if it takes too long.
func (r *relay) pause(limit time.Duration) bool {
	for end := time.Now().Add(limit); !r.mu.TryLock(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func (r *relay) resume() { r.mu.Unlock() }

// errorLine is how most programs begin, or end, the line that says what is wrong; what they print behind it is
// indented, or not about it: Node says its version last.
var errorLine = regexp.MustCompile(`(?i)^\S.*(error|fatal|panic)|^(error|fatal|panic)`)

// lastLine returns the line that is most likely to say why the program ended: the last one that speaks of an error,
// or else the last one.
func (r *relay) lastLine() string {
	lines := strings.Split(strings.TrimSpace(string(r.text())), "\n")
	for _, line := range slices.Backward(lines) {
		if errorLine.MatchString(line) {
			return printable(line)
		}
	}
	return printable(strings.TrimSpace(lines[len(lines)-1]))
}

func (r *relay) text() []byte {
	r.tail.Lock()
	defer r.tail.Unlock()
	return bytes.Clone(r.tail.text)
}
