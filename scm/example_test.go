//go:build linux

package scm_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A listening socket goes to the other end of a pair, which serves it. Nobody who connects in
// between notices.
func Example() {
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	if err := a.Send([]byte("web"), ln.(*net.TCPListener)); err != nil {
		log.Fatal(err)
	}
	ln.Close() // the message holds the socket

	m, err := b.Receive(make([]byte, 100), 1)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close() // closes what is not taken
	got, err := m.Files.TakeListener(0)
	if err != nil {
		log.Fatal(err)
	}
	defer got.Close()
	fmt.Printf("%s: same address %v\n", m.Data, got.Addr().String() == ln.Addr().String())
	// Output: web: same address true
}

func ExampleNewConn() {
	a, b, err := socketpair.New(socketpair.Stream) // or a connection to a path
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	c, err := scm.NewConn(a)
	if err != nil {
		a.Close() // still ours
		log.Fatal(err)
	}
	defer c.Close() // closes a
	fmt.Println(c.Style())
	// Output: SOCK_STREAM
}

// Inherit is for a child that its parent started with one end of a pair in ExtraFiles. Here the
// number is not open, as in a program that somebody started by hand.
func ExampleInherit() {
	c, err := scm.Inherit(12345)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	// Output: scm: inherit descriptor 12345: getsockopt: bad file descriptor
}

// pair is a pair for the examples below.
func pair() (a, b *scm.Conn) {
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	return a, b
}

func ExamplePair() {
	a, b, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	if err := a.Send([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 100), 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", m.Data)
	// Output: hello
}

// Send borrows: the files are still the caller's and can be closed at once.
func ExampleConn_Send() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	r, w, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	if err := a.Send([]byte("a pipe"), w); err != nil {
		log.Fatal(err)
	}
	w.Close()

	m, err := b.Receive(make([]byte, 100), 1)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	got := m.Files.Take(0)
	fmt.Fprintln(got, "through the pipe")
	got.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(text))
	// Output: through the pipe
}

// Receive gives: what is not taken out of the message dies with it. More than was asked for is an
// error, and everything is closed already.
func ExampleConn_Receive() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	for range 2 {
		if err := a.Send([]byte("x"), os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
	}
	m, err := b.Receive(make([]byte, 100), 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Files.Len())
	m.Close()
	_, err = b.Receive(make([]byte, 100), 1)
	fmt.Println(err)
	// Output:
	// 2
	// scm: receive: too many descriptors: 2 came, 1 were asked for
}

// The raw tier moves numbers and allocates nothing. A broker passes on what it received.
func ExampleConn_SendFDs() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	c, d := pair()
	defer c.Close()
	defer d.Close()
	if err := a.Send([]byte("for d"), os.Stdin); err != nil {
		log.Fatal(err)
	}
	p, fds := make([]byte, 100), make([]int, scm.MaxFDs)
	n, nfds, err := b.ReceiveFDs(p, fds)
	if err != nil {
		log.Fatal(err)
	}
	err = c.SendFDs(p[:n], fds[:nfds]) // borrows
	for _, fd := range fds[:nfds] {
		os.NewFile(uintptr(fd), "").Close()
	}
	if err != nil {
		log.Fatal(err)
	}
	m, err := d.Receive(p, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Printf("%s, %d\n", m.Data, m.Files.Len())
	// Output: for d, 1
}

func ExampleConn_ReceiveFDs() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := a.Send([]byte("x"), os.Stdin); err != nil {
		log.Fatal(err)
	}
	p, fds := make([]byte, 100), make([]int, 1)
	n, nfds, err := b.ReceiveFDs(p, fds)
	if err != nil {
		log.Fatal(err) // nothing to close
	}
	fmt.Println(n, nfds)
	os.NewFile(uintptr(fds[0]), "stdin").Close()
	// Output: 1 1
}

func ExampleConn_SendBatch() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	stdin := []int{0}
	sent, err := a.SendBatch([]scm.Packet{{Data: []byte("one"), FDs: stdin}, {Data: []byte("two")}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sent)
	// Output: 2
}

func ExampleConn_ReceiveBatch() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	for _, text := range []string{"one", "two"} {
		if err := a.Send([]byte(text), os.Stdin); err != nil {
			log.Fatal(err)
		}
	}
	packets := make([]scm.Packet, 4)
	for i := range packets {
		packets[i] = scm.Packet{Data: make([]byte, 100), FDs: make([]int, 1)}
	}
	n, err := b.ReceiveBatch(packets)
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range packets[:n] {
		fmt.Printf("%s with %d, %v\n", p.Data[:p.N], p.NFDs, p.Err)
		for _, fd := range p.FDs[:p.NFDs] {
			os.NewFile(uintptr(fd), "stdin").Close()
		}
	}
	// Output:
	// one with 1, <nil>
	// two with 1, <nil>
}

// With SetPassCred each message says who wrote it, which on a pair may be another process than the
// one that made the pair.
func ExampleConn_SetPassCred() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := b.SetPassCred(true); err != nil {
		log.Fatal(err)
	}
	if err := a.Send([]byte("x")); err != nil {
		log.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 100), 0)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Sender.PID == os.Getpid())
	// Output: true
}

func ExampleConn_SetPassPIDFD() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := b.SetPassCred(true); err != nil {
		log.Fatal(err)
	}
	if err := b.SetPassPIDFD(true); err != nil {
		log.Fatal(err) // before Linux 6.5 errors.ErrUnsupported
	}
	if err := a.Send([]byte("x")); err != nil {
		log.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 100), 0)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Sender.Process.Alive())
	// Output: true
}

// A socket that expects no descriptors refuses them, and the sender is told.
func ExampleConn_SetPassRights() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := b.SetPassRights(false); err != nil {
		log.Fatal(err) // before Linux 6.16 errors.ErrUnsupported
	}
	fmt.Println(a.Send([]byte("x"), os.Stdin))
	// Output: scm: send: the other end refuses descriptors: sendmsg: operation not permitted
}

func ExampleConn_SetDeadline() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := b.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	_, err := b.Receive(make([]byte, 100), 0)
	fmt.Println(err)
	// Output: i/o timeout
}

func ExampleConn_SetReadDeadline() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := b.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	_, err := b.Receive(make([]byte, 100), 0)
	fmt.Println(err, b.Send([]byte("x")))
	// Output: i/o timeout <nil>
}

func ExampleConn_SetWriteDeadline() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	if err := a.SetWriteDeadline(time.Now().Add(time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	var err error
	for err == nil { // nobody receives
		err = a.Send([]byte("x"))
	}
	fmt.Println(err)
	// Output: i/o timeout
}

func ExampleConn_NetConn() {
	x, y, err := socketpair.New(socketpair.Stream)
	if err != nil {
		log.Fatal(err)
	}
	defer y.Close()
	c, err := scm.NewConn(x)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.NetConn().CloseWrite(); err != nil { // nothing more to send, still receiving
		log.Fatal(err)
	}
	_, err = y.Read(make([]byte, 1))
	fmt.Println(err)
	// Output: EOF
}

func ExampleConn_Style() {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	fmt.Println(a.Style())
	// Output: SOCK_SEQPACKET
}

// received passes files over a pair, for the examples below.
func received(conns ...interface{ Close() error }) scm.Message {
	a, b := pair()
	defer a.Close()
	defer b.Close()
	var err error
	switch c := conns[0].(type) {
	case *os.File:
		err = a.Send([]byte("x"), c)
	case *net.TCPListener:
		err = a.Send([]byte("x"), c)
	case *net.TCPConn:
		err = a.Send([]byte("x"), c)
	case *net.UDPConn:
		err = a.Send([]byte("x"), c)
	}
	if err != nil {
		log.Fatal(err)
	}
	m, err := b.Receive(make([]byte, 100), 1)
	if err != nil {
		log.Fatal(err)
	}
	return m
}

func ExampleFiles_Take() {
	m := received(os.Stdin)
	defer m.Close()
	f := m.Files.Take(0)
	defer f.Close()
	fmt.Println(f.Name(), m.Files.Take(0))
	// Output: received <nil>
}

// A receiver that wants a listener looks before it takes.
func ExampleFiles_Lend() {
	m := received(os.Stdin)
	defer m.Close()
	info, err := scm.Inspect(m.Files.Lend(0))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Socket != nil && info.Socket.Listening)
	// Output: false
}

func ExampleFiles_TakeFD() {
	m := received(os.Stdin)
	defer m.Close()
	fd := m.Files.TakeFD(0)
	defer os.NewFile(uintptr(fd), "stdin").Close()
	fmt.Println(fd > 2, m.Files.TakeFD(0))
	// Output: true -1
}

func ExampleFiles_Len() {
	m := received(os.Stdin)
	defer m.Close()
	fmt.Println(m.Files.Len())
	// Output: 1
}

func ExampleFiles_TakeListener() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	m := received(ln.(*net.TCPListener))
	defer m.Close()
	_, err = m.Files.TakeConn(0)
	fmt.Println(err)
	got, err := m.Files.TakeListener(0) // it is still there
	if err != nil {
		log.Fatal(err)
	}
	defer got.Close()
	fmt.Println(got.Addr().String() == ln.Addr().String())
	// Output:
	// scm: take descriptor 0 as a connection: it listens: invalid argument
	// true
}

func ExampleFiles_TakeConn() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	m := received(conn.(*net.TCPConn))
	conn.Close() // our copy
	defer m.Close()
	got, err := m.Files.TakeConn(0)
	if err != nil {
		log.Fatal(err)
	}
	defer got.Close()
	fmt.Println(got.RemoteAddr().String() == ln.Addr().String())
	// Output: true
}

func ExampleFiles_TakePacketConn() {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	m := received(conn.(*net.UDPConn))
	defer m.Close()
	got, err := m.Files.TakePacketConn(0)
	if err != nil {
		log.Fatal(err)
	}
	defer got.Close()
	fmt.Println(got.LocalAddr().String() == conn.LocalAddr().String())
	// Output: true
}

func ExampleInspect() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	info, err := scm.Inspect(ln.(*net.TCPListener))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Kind, info.Socket.Style, info.Socket.Listening)
	// Output: socket SOCK_STREAM true
}
