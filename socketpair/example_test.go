//go:build linux

package socketpair_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/socketpair"
)

func ExampleNew() {
	a, b, err := socketpair.New(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if _, err := a.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 100)
	n, err := b.Read(p)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", p[:n])
	// Output: hello
}

// A child that knows nothing of pairs uses its end as standard input and output.
func ExampleForChild() {
	parent, child, err := socketpair.ForChild(socketpair.Stream)
	if err != nil {
		log.Fatal(err)
	}
	defer parent.Close()
	cmd := exec.Command("tr", "a-z", "A-Z")
	cmd.Stdin, cmd.Stdout = child, child
	err = cmd.Start()
	child.Close() // the child has its own
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(parent, "hello")
	if err := parent.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(parent)
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output: HELLO
}

// Inherit is for the child: descriptor 3 is the first of ExtraFiles. This program was not started
// that way.
func ExampleInherit() {
	c, err := socketpair.Inherit(12345)
	if errors.Is(err, syscall.EBADF) {
		fmt.Println(err)
		return
	}
	defer c.Close()
	// Output: socketpair: inherit descriptor 12345: no such descriptor; did the parent put it into ExtraFiles?: getsockopt: bad file descriptor
}

func ExampleCreate() {
	a, b, err := socketpair.Create(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		log.Fatal(err)
	}
	a.Close()
	b.Close()

	_, _, err = socketpair.Create(unix.AF_INET, unix.SOCK_STREAM, 0)
	fmt.Println(err)
	fmt.Println(errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, errors.ErrUnsupported))
	// Output:
	// socketpair: create a pair of AF_INET, SOCK_STREAM, protocol 0: AF_INET has such sockets, but not in pairs; use AF_UNIX: socketpair: operation not supported
	// true true
}

func ExampleStyle_String() {
	fmt.Println(socketpair.SeqPacket)
	// Output: SOCK_SEQPACKET
}
