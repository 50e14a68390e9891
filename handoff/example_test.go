//go:build linux

package handoff_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"syscall"

	"github.com/fdkit/fdkit/handoff"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/socketpair"
)

// A listening socket moves from one side to the other. Here both are in one process, over a pair; c may
// as well be a connection to a path, or the end that a child inherited.
func Example() {
	ctx := context.Background()
	p, s, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	offered := make(chan error, 1)
	go func() {
		offered <- handoff.Offer(ctx, p, handoff.Offering{
			Name:  "web",
			Items: []handoff.Item{{Name: "http", Kind: handoff.Listener, Conn: ln.(*net.TCPListener)}},
			Pause: func(context.Context) (handoff.Final, error) {
				return handoff.Final{State: []byte("17 visitors")}, nil
			},
		})
	}()

	// The successor.
	to, err := handoff.Take(ctx, s, handoff.Wish{Name: "web"})
	if err != nil {
		log.Fatal(err)
	}
	defer to.Close() // what nobody took
	got, err := to.Items[0].TakeListener()
	if err != nil {
		to.Abort(err) // the other side serves on
		log.Fatal(err)
	}
	defer got.Close()
	if err := to.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	to.Serving() // it is ours: accept, and say so
	final, err := to.Final()
	if err != nil {
		log.Print(err) // the other side died before it had said all; this one serves
	}
	fmt.Printf("serving %s, %s, %d late items\n", to.Items[0].Name, final.State, len(final.Items))
	if err := to.Wait(ctx); err != nil { // until the other side cannot take it back any more
		log.Fatal(err)
	}
	fmt.Println(<-offered)
	// Output:
	// serving http, 17 visitors, 0 late items
	// <nil>
}

func ExampleOffer() {
	p, s, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	go handoff.Take(context.Background(), s, handoff.Wish{Name: "mail"})
	err = handoff.Offer(context.Background(), p, handoff.Offering{Name: "web"})
	fmt.Println(err)
	// Output: handoff: the predecessor keeps serving: it is "mail", we are "web": another service
}

// A successor that cannot serve says why, and the predecessor serves on.
func ExampleTake() {
	p, s, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	offered := make(chan error, 1)
	go func() { offered <- handoff.Offer(context.Background(), p, handoff.Offering{Name: "web"}) }()
	to, err := handoff.Take(context.Background(), s, handoff.Wish{Name: "web"})
	if err != nil {
		log.Fatal(err)
	}
	if to.PID() <= 0 {
		log.Fatal("the predecessor has no pid")
	}
	to.Abort(fmt.Errorf("line 3 of the configuration is wrong"))
	fmt.Println(<-offered)
	// Output: handoff: the predecessor keeps serving: the other side says: "line 3 of the configuration is wrong"
}

// The items that a successor takes can be files, connections and packet sockets too. Release ends the
// predecessor's probation early.
func ExampleTakeover_Release() {
	ctx := context.Background()
	p, s, err := scm.Pair(socketpair.SeqPacket)
	if err != nil {
		log.Fatal(err)
	}
	packet, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer packet.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	offered := make(chan error, 1)
	go func() {
		offered <- handoff.Offer(ctx, p, handoff.Offering{Name: "dns", Items: []handoff.Item{
			{Name: "dns", Kind: handoff.PacketConn, Conn: packet.(*net.UDPConn)},
			{Name: "client", Kind: handoff.Connection, Conn: conn.(*net.TCPConn)},
			{Name: "again", Kind: handoff.File, Conn: conn.(*net.TCPConn)},
			{Name: "number", Kind: handoff.File, Conn: conn.(*net.TCPConn)},
		}})
	}()
	to, err := handoff.Take(ctx, s, handoff.Wish{Name: "dns"})
	if err != nil {
		log.Fatal(err)
	}
	defer to.Close()
	dns, err := to.Items[0].TakePacketConn()
	if err != nil {
		log.Fatal(err)
	}
	defer dns.Close()
	client, err := to.Items[1].TakeConn()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	defer to.Items[2].TakeFile().Close()
	defer syscall.Close(to.Items[3].TakeFD())
	if err := to.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	to.Serving()
	if err := to.Release(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-offered, to.Items[0].Kind, to.Items[1].Kind, to.Items[2].Kind)
	// Output: <nil> packet conn connection file
}
