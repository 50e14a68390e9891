//go:build unix

package holder

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A closer closes descriptors of others, who decide how long close(2) takes (SO_LINGER on a socket, a file
// of their own file system). Each user can occupy a few threads here, and holds up only itself.
type closer struct {
	mu    sync.Mutex
	users map[uint32]*closing
}

type closing struct {
	running int
	waiting []closeJob
}

type closeJob struct {
	fd   int
	done func()
}

const closersPerUser = 4

func newCloser() *closer { return &closer{users: map[uint32]*closing{}} }

// close takes fd over and closes it for the user. When it is closed, done is called, if it is not nil.
func (c *closer) close(user uint32, fd int, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[user]
	if u == nil {
		u = new(closing)
		c.users[user] = u
	}
	u.waiting = append(u.waiting, closeJob{fd, done})
	if u.running < closersPerUser {
		u.running++
		go c.run(user, u)
	}
}

// closeAll is close for several.
func (c *closer) closeAll(user uint32, fds []int) {
	for _, fd := range fds {
		c.close(user, fd, nil)
	}
}

func (c *closer) run(user uint32, u *closing) {
	for {
		c.mu.Lock()
		if len(u.waiting) == 0 {
			if u.running--; u.running == 0 {
				delete(c.users, user)
			}
			c.mu.Unlock()
			return
		}
		job := u.waiting[0]
		u.waiting = u.waiting[1:]
		c.mu.Unlock()
		_ = unix.Close(job.fd)
		if job.done != nil {
			job.done()
		}
	}
}
