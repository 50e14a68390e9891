//go:build linux

package handoff_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/fdkit/fdkit/handoff"
)

// A whole server, in the order in which a service is made. With a socket path and an address of its own, and without the part
// in the middle that asks and stops it, it takes over from the one that runs when it is started a second time.
func ExampleStart() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "handoff-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	svc, err := handoff.Start(ctx, handoff.Options{Name: "web", Socket: filepath.Join(dir, "handoff.sock")})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := svc.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "generation %d", svc.Generation())
	})}
	go svc.Serve(srv, ln)
	if err := svc.Ready(ctx); err != nil {
		log.Fatal(err)
	}

	resp, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", body)
	http.DefaultClient.CloseIdleConnections()

	svc.Stop(ctx) // or a successor, or SIGTERM
	<-svc.Stopping()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := svc.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(svc.Reason())
	// Output:
	// generation 1
	// told to stop
}

// example starts a service without a successor, for the examples below.
func example() *handoff.Service {
	svc, err := handoff.Start(context.Background(), handoff.Options{Name: "example", Program: "/bin/false"})
	if err != nil {
		log.Fatal(err)
	}
	return svc
}

func end(svc *handoff.Service) {
	if err := svc.Stop(context.Background()); err != nil {
		log.Fatal(err)
	}
	if err := svc.Drain(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// A successor that fails leaves this process serving.
func ExampleService_Upgrade() {
	svc := example()
	defer end(svc)
	if err := svc.Ready(context.Background()); err != nil {
		log.Fatal(err)
	}
	if err := svc.Upgrade(context.Background()); err != nil {
		fmt.Println("this process serves on:", svc.Reason() == "")
	}
	// Output: this process serves on: true
}

func ExampleService_Listen() {
	svc := example()
	defer end(svc)
	ln, err := svc.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ln.Addr().Network())
	// Output: tcp
}

func ExampleService_ListenPacket() {
	svc := example()
	defer end(svc)
	conn, err := svc.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(conn.LocalAddr().Network())
	// Output: udp
}

// A file that is kept goes to the successor, which finds it in Adopted before it is Ready.
func ExampleService_Keep() {
	svc := example()
	defer end(svc)
	for _, it := range svc.Adopted() { // of a predecessor; there is none
		fmt.Println("adopted", it.Name)
	}
	f, err := os.CreateTemp("", "notes")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := svc.Keep(handoff.Item{Name: "notes", Kind: handoff.File, Conn: f}); err != nil {
		log.Fatal(err)
	}
	defer svc.Forget("notes") // before it is closed

	if err := svc.Ready(context.Background()); err != nil {
		log.Fatal(err)
	}
	if _, err := svc.Final(); err != nil { // what the predecessor's Options.Final returned
		fmt.Println("the predecessor died before it had said all:", err)
	}
	fmt.Println("serving")
	// Output: serving
}
