//go:build linux

package systemd_test

import (
	"fmt"
	"log"
	"os"

	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/systemd"
)

// A service takes the socket called "web" if the service manager gave it one. Here nobody did.
func ExampleInherited() {
	files, err := systemd.Inherited()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files.Named("web") {
		ln, err := f.TakeListener()
		if err != nil {
			log.Fatal(err) // says which descriptor, and what is wrong with it
		}
		defer ln.Close()
	}
	fmt.Println(len(files), "descriptors")
	// Output: 0 descriptors
}

// What is not known by its name is looked at before it is taken.
func ExampleFile() {
	files, err := systemd.Inherited()
	if err != nil {
		log.Fatal(err)
	}
	defer files.Close() // what is left
	for _, f := range files {
		info, err := scm.Inspect(f)
		if err != nil {
			log.Fatal(err)
		}
		switch {
		case info.Socket != nil && info.Socket.Listening:
			_, err = f.TakeListener() // at info.Socket.Local
		case info.Socket != nil && info.Socket.Remote != nil:
			_, err = f.TakeConn()
		case info.Socket != nil:
			_, err = f.TakePacketConn()
		default:
			_, err = f.TakeFile()
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
}

// A program is about to execute another one in its place, which finds two sockets at 3 and 4.
func ExampleEnviron() {
	env := systemd.Environ([]string{"HOME=/", "LISTEN_FDS=7"}, os.Getpid(), "web", "admin")
	fmt.Println(env[:3])
	// Output: [HOME=/ LISTEN_FDS=2 LISTEN_FDNAMES=web:admin]
}
