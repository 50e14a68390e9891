//go:build linux

package credentials_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

func ExampleSelf() {
	self := credentials.Self()
	fmt.Println(self.PID == os.Getpid(), self.UID == uint32(os.Geteuid()))
	// Output: true true
}

func ExampleCred_String() {
	fmt.Println(credentials.Cred{PID: 71, UID: 1000, GID: 100})
	fmt.Println(credentials.Cred{UID: 1000, GID: 100})
	// Output:
	// pid 71 uid 1000 gid 100
	// pid unknown uid 1000 gid 100
}

// The end of a stream is stamped like this, and is not root.
func ExampleCred_Known() {
	fmt.Println(credentials.Cred{PID: 0, UID: 0, GID: 0}.Known())
	// Output: false
}

// A server asks who has connected to its path.
func ExamplePeer() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "socket")})
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.AcceptUnix()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	peer, err := credentials.Peer(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(peer == credentials.Self())
	// Output: true
}

// A TCP connection has no peer with credentials.
func ExamplePeer_noPeer() {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	_, err = credentials.Peer(conn)
	fmt.Println(errors.Is(err, credentials.ErrNoPeer))
	// Output: true
}

// The peer of a pair is who made it, here this process.
func ExamplePeerGroups() {
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()

	groups, err := credentials.PeerGroups(a)
	if err != nil {
		log.Fatal(err)
	}
	own, err := os.Getgroups()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(groups) == len(own))
	// Output: true
}

// Not every machine has a security module that labels processes.
func ExamplePeerLabel() {
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()

	label, err := credentials.PeerLabel(a)
	if errors.Is(err, errors.ErrUnsupported) {
		label = "there are none"
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(label != "")
	// Output: true
}

// Pinned, a process is not mistaken for another one that gets its pid later. The peer of a pair is who
// made it, here this process.
func ExamplePeerProcess() {
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()

	p, err := credentials.PeerProcess(a)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	fmt.Println(p.PID() == os.Getpid(), p.Alive())
	// Output: true true
}

// Both ends call Exchange. Here they are goroutines, usually two processes.
func ExampleExchange() {
	a, b, err := socketpair.New(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	done := make(chan error)
	go func() {
		s, err := credentials.Exchange(context.Background(), b)
		done <- errors.Join(err, s.Close())
	}()

	sender, err := credentials.Exchange(context.Background(), a)
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	if err := credentials.SameUser().CheckSender(&sender); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sender.PID == os.Getpid())
	if err := <-done; err != nil {
		log.Fatal(err)
	}
	// Output: true
}

func ExampleNewSender() {
	stamp := credentials.Cred{PID: 0, UID: 65534, GID: 65534} // of a message that was not stamped
	fmt.Println(credentials.NewSender(stamp, nil) == nil)
	// Output: true
}

func ExampleSender_Close() {
	sender := credentials.NewSender(credentials.Self(), nil)
	defer sender.Close()
	fmt.Println(sender.PID == os.Getpid())
	// Output: true
}

// Strangers are closed before Accept returns.
func ExampleListener() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	plain, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		log.Fatal(err)
	}
	ln := credentials.Listener(plain, credentials.AnyOf(credentials.SameUser(), credentials.Root()))
	defer ln.Close()

	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println("welcome")
	// Output: welcome
}

// The error names who was refused by which rule, and is one of permission.
func ExamplePolicy_Check() {
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()

	fmt.Println(credentials.SameUser().Check(a))
	err = credentials.Not(credentials.SameUser()).Check(a)
	fmt.Println(errors.Is(err, credentials.ErrDenied), errors.Is(err, os.ErrPermission))
	// Output:
	// <nil>
	// true true
}

func ExamplePolicy_CheckSender() {
	sender := &credentials.Sender{Cred: credentials.Cred{PID: 71, UID: 1000, GID: 100}}
	fmt.Println(credentials.Root().CheckSender(sender))
	// Output: credentials: refused pid 71 uid 1000 gid 100: it is not root
}

func ExamplePolicy_String() {
	fmt.Println(credentials.AnyOf(credentials.SameUser(), credentials.GID(100)))
	fmt.Println(credentials.Policy{})
	// Output:
	// (the same user or gid 100)
	// nobody
}

// somebody is who is judged in the examples of rules.
var somebody = &credentials.Sender{Cred: credentials.Cred{PID: 71, UID: 1000, GID: 100}}

func ExampleSameUser() {
	self := credentials.Self()
	fmt.Println(credentials.SameUser().CheckSender(&credentials.Sender{Cred: self}))
	// Output: <nil>
}

func ExampleRoot() {
	fmt.Println(credentials.Root().CheckSender(somebody))
	// Output: credentials: refused pid 71 uid 1000 gid 100: it is not root
}

func ExampleUID() {
	fmt.Println(credentials.UID(33, 1000).CheckSender(somebody))
	// Output: <nil>
}

func ExampleGID() {
	fmt.Println(credentials.GID(100).CheckSender(somebody))
	// Output: <nil>
}

func ExampleAnyOf() {
	fmt.Println(credentials.AnyOf(credentials.Root(), credentials.UID(1000)).CheckSender(somebody))
	// Output: <nil>
}

func ExampleAllOf() {
	fmt.Println(credentials.AllOf(credentials.UID(1000), credentials.GID(100)).CheckSender(somebody))
	fmt.Println(credentials.AllOf(credentials.UID(1000), credentials.Root()).CheckSender(somebody))
	// Output:
	// <nil>
	// credentials: refused pid 71 uid 1000 gid 100: it is not (uid 1000 and root)
}

func ExampleNot() {
	fmt.Println(credentials.Not(credentials.Root()).CheckSender(somebody))
	// Output: <nil>
}

func ExampleOpenProcess() {
	p, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	fmt.Println(p.Alive())
	// Output: true
}

// A child is pinned at its birth.
func ExampleNewProcess() {
	pidfd := -1
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	file := os.NewFile(uintptr(pidfd), "pidfd")
	p, err := credentials.NewProcess(file)
	if err != nil {
		_ = file.Close()
		log.Fatal(err)
	}
	defer p.Close()

	if err := p.Wait(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.PID() == cmd.Process.Pid, p.Alive())
	if err := cmd.Wait(); err != nil { // Process does not reap
		log.Fatal(err)
	}
	// Output: true false
}

// runningExample starts a process that runs until its input is closed.
func runningExample() (p *credentials.Process, in io.Closer, cmd *exec.Cmd) {
	cmd = exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	p, err = credentials.OpenProcess(cmd.Process.Pid)
	if err != nil {
		log.Fatal(err)
	}
	return p, in, cmd
}

func ExampleProcess_Wait() {
	p, in, cmd := runningExample()
	defer p.Close()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fmt.Println(errors.Is(p.Wait(ctx), context.Canceled))

	if err := in.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Wait(context.Background()))
	if err := cmd.Wait(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// true
	// <nil>
}

func ExampleProcess_Signal() {
	p, in, cmd := runningExample()
	defer p.Close()
	defer in.Close()

	if err := p.Signal(syscall.SIGTERM); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cmd.Wait())
	fmt.Println(errors.Is(p.Signal(syscall.SIGTERM), os.ErrProcessDone))
	// Output:
	// signal: terminated
	// true
}

func ExampleProcess_Alive() {
	p, in, cmd := runningExample()
	defer p.Close()

	fmt.Println(p.Alive())
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Alive())
	// Output:
	// true
	// false
}

// Two Processes are the same one if their IDs are.
func ExampleProcess_ID() {
	p, in, cmd := runningExample()
	defer p.Close()
	again, err := credentials.OpenProcess(cmd.Process.Pid)
	if err != nil {
		log.Fatal(err)
	}
	defer again.Close()
	fmt.Println(p.ID() == again.ID())
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		log.Fatal(err)
	}
	// Output: true
}

func ExampleProcess_PID() {
	p, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	fmt.Println(p.PID() == os.Getpid())
	// Output: true
}

func ExampleProcess_Info() {
	p, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	info, err := p.Info()
	if errors.Is(err, errors.ErrUnsupported) { // before Linux 6.13
		info = credentials.ProcessInfo{ParentPID: os.Getppid()}
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.ParentPID == os.Getppid())
	// Output: true
}

func ExampleProcess_Exe() {
	p, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	exe, err := p.Exe()
	if err != nil {
		log.Fatal(err)
	}
	own, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(exe == own)
	// Output: true
}

// A Process can be sent on. Who receives it knows it by its ID.
func ExampleProcess_SyscallConn() {
	p, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := a.Send([]byte("watch this one"), p); err != nil {
		log.Fatal(err)
	}

	m, err := b.Receive(make([]byte, 64), 1)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	file := m.Files.Take(0)
	received, err := credentials.NewProcess(file)
	if err != nil {
		_ = file.Close()
		log.Fatal(err)
	}
	defer received.Close()
	fmt.Println(received.ID() == p.ID())
	// Output: true
}

func ExampleProcess_Close() {
	p, err := credentials.OpenProcess(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Close(), p.Close())
	fmt.Println(p.Alive())
	// Output:
	// <nil> <nil>
	// false
}
