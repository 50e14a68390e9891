package handoff

import (
	"context"
	"crypto/rand"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pkg/errors"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// A socket is one that the service owns under a name: a listener or a packet conn.
type socket struct {
	name     string
	listener *listener          // or
	packet   pausablePacketConn // one of them
	managers bool               // the service manager has made it, and keeps a copy
	path     string             // of a Unix socket of ours; its last owner takes it away
	file     os.FileInfo        // what lay there when it was made or adopted
}

// openListener takes the predecessor's listener of this name or the service manager's, or makes one.
func (s *Service) openListener(name, network, address string) (*socket, error) {
	it, err := s.claim(name, Listener)
	if err != nil {
		return nil, err
	}
	k := &socket{name: name}
	var ln net.Listener
	if it != nil {
		k.managers = string(it.Meta) == managersMark
		ln, err = it.TakeListener()
	} else if f, ferr := s.given(network, address, listens); f != nil || ferr != nil {
		if err = ferr; err == nil {
			k.managers = true
			ln, err = f.TakeListener()
		}
	} else {
		ln, err = listen(network, address)
	}
	if err != nil {
		return nil, err
	}
	if k.listener, err = newListener(name, ln, true); err != nil {
		_ = ln.Close()
		return nil, err
	}
	if _, ok := ln.(*net.UnixListener); ok && !k.managers {
		k.setPath(address)
	}
	return k, nil
}

// listen makes a listener. A Unix path that nobody serves any more is replaced: the new socket gets its
// name when it listens already.
func listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(network, "unix") || strings.HasPrefix(address, "@") {
		return ln, err
	}
	if info, lerr := os.Lstat(address); lerr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, err // connect(2) refuses a file as it does a socket that nobody serves
	}
	if conn, derr := net.Dial(network, address); !errors.Is(derr, syscall.ECONNREFUSED) {
		if derr == nil {
			_ = conn.Close()
		}
		return nil, err // somebody serves it
	}
	// A name that nobody can know before, or a stranger could take it, where folders are everybody's.
	fresh := filepath.Join(filepath.Dir(address), "."+rand.Text()[:8])
	if ln, err = net.Listen(network, fresh); err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Rename(fresh, address); err != nil {
		_ = ln.Close()
		_ = os.Remove(fresh)
		return nil, err
	}
	return ln, nil
}

// openPacketConn takes the predecessor's packet conn of this name or the service manager's, or makes one.
func (s *Service) openPacketConn(name, network, address string) (*socket, error) {
	it, err := s.claim(name, PacketConn)
	if err != nil {
		return nil, err
	}
	k := &socket{name: name}
	var c net.PacketConn
	if it != nil {
		k.managers = string(it.Meta) == managersMark
		c, err = it.TakePacketConn()
	} else if f, ferr := s.given(network, address, receives); f != nil || ferr != nil {
		if err = ferr; err == nil {
			k.managers = true
			c, err = f.TakePacketConn()
		}
	} else {
		c, err = net.ListenPacket(network, address)
	}
	if err != nil {
		return nil, err
	}
	if k.packet, err = newPacketConn(name, c, true); err != nil {
		_ = c.Close()
		return nil, err
	}
	if _, ok := c.(*net.UnixConn); ok && !k.managers {
		k.setPath(address)
	}
	return k, nil
}

// setPath remembers where the socket is found. That is what Listen was called with: the kernel's name for a
// socket that has replaced a stale one is the name that it was bound to before it was renamed.
func (k *socket) setPath(path string) {
	if path == "" || strings.HasPrefix(path, "@") {
		return
	}
	k.path = path
	k.file, _ = os.Lstat(path)
}

func (k *socket) item() Item {
	it := Item{Name: k.name, Kind: Listener, Conn: k.listener}
	if k.packet != nil {
		it.Kind, it.Conn = PacketConn, k.packet
	}
	if k.managers {
		it.Meta = []byte(managersMark)
	}
	return it
}

func (k *socket) pause(ctx context.Context) error {
	if k.packet != nil {
		return k.packet.base().pause(ctx)
	}
	return k.listener.pause(ctx)
}

// resume lets accept and read. A Unix listener is made this process's own: its clients see who called
// listen(2) last, which was another generation. Calling it again loses nothing. One of the service manager's stays
// as its unit says: its clients see the manager, and Backlog= holds.
func (k *socket) resume() {
	if k.packet != nil {
		k.packet.base().resume()
		return
	}
	if !k.managers && (k.path != "" || strings.HasPrefix(k.name, "unix")) {
		k.listener.relisten()
	}
	k.listener.resume()
}

func (k *socket) release() {
	if k.packet != nil {
		_ = k.packet.base().release()
		return
	}
	_ = k.listener.release()
}

// empty lets the program take what is queued, and then nothing any more.
func (k *socket) empty(ctx context.Context) {
	k.resume()
	if k.packet != nil {
		_ = k.packet.base().empty(ctx)
		return
	}
	_ = k.listener.empty(ctx)
}

func (k *socket) waiting() <-chan struct{} {
	if k.packet != nil {
		return k.packet.base().waiting()
	}
	return k.listener.waiting()
}

// relisten is listen(2) again, with the longest queue that the system allows.
func (l *listener) relisten() {
	_ = sysfd.Control(l.ln, func(fd int) error { return syscall.Listen(fd, math.MaxUint16) })
}

// unlink takes the path away, if it is still what this socket was bound to.
func (k *socket) unlink() {
	if k.file == nil {
		return
	}
	if now, err := os.Lstat(k.path); err == nil && os.SameFile(now, k.file) {
		_ = os.Remove(k.path)
	}
}
