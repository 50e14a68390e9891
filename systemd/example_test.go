//go:build linux

package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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

// exampleManager stands for the service manager: it hears everything and says what.
func exampleManager() (stop func()) {
	dir, err := os.MkdirTemp("", "systemd-example-")
	if err != nil {
		log.Fatal(err)
	}
	l, err := systemd.ListenNotify(filepath.Join(dir, "notify"))
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			n, err := l.Receive(context.Background())
			if err != nil {
				return
			}
			fmt.Println(strings.ReplaceAll(string(n.State), "\n", " "))
			n.Close()
		}
	}()
	os.Setenv("NOTIFY_SOCKET", l.Addr()) // the manager does that
	return func() {
		os.Unsetenv("NOTIFY_SOCKET")
		l.Close()
		<-done
		os.RemoveAll(dir)
	}
}

func ExampleNotify() {
	defer exampleManager()()
	ctx := context.Background()
	if _, err := systemd.Notify(ctx, systemd.Ready, systemd.Status("serving")); err != nil {
		log.Fatal(err)
	}
	if _, err := systemd.Barrier(ctx); err != nil { // it has heard
		log.Fatal(err)
	}
	// Output: READY=1 STATUS=serving
}

// A program moves its service to its successor, and ends when the manager knows.
func ExampleBarrier() {
	defer exampleManager()()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	successor := systemd.State("MAINPID=4711") // systemd.MainPID(cmd.Process.Pid)
	if _, err := systemd.Notify(ctx, successor); err != nil {
		log.Fatal(err)
	}
	if _, err := systemd.Barrier(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the manager knows")
	// Output:
	// MAINPID=4711
	// the manager knows
}

// A helper says what the program does that has started it.
func ExampleNotifyFor() {
	told, err := systemd.NotifyFor(context.Background(), os.Getppid(), systemd.Ready)
	fmt.Println(told, err) // no manager here
	// Output: false <nil>
}

// State that outlives the process: in a sealed file, which the manager keeps.
func ExampleStore() {
	defer exampleManager()()
	ctx := context.Background()
	state, err := systemd.Sealed("state", []byte("41 sessions"))
	if err != nil {
		log.Fatal(err)
	}
	defer state.Close() // the manager has its own copy
	if _, err := systemd.Store(ctx, "state", []syscall.Conn{state}); err != nil {
		log.Fatal(err)
	}
	if _, err := systemd.Barrier(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: FDSTORE=1 FDNAME=state
}

// The next process finds it among what it inherits.
func ExampleReadSealed() {
	files, err := systemd.Inherited()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files.Named("state") {
		state, err := systemd.ReadSealed(f, 1<<20)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", state)
		f.Close()
	}
	if _, err := systemd.Remove(context.Background(), "state"); err != nil {
		log.Fatal(err)
	}
	// Output:
}

func ExampleRemove() {
	defer exampleManager()()
	ctx := context.Background()
	if _, err := systemd.Remove(ctx, "state"); err != nil {
		log.Fatal(err)
	}
	if _, err := systemd.Barrier(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: FDSTOREREMOVE=1 FDNAME=state
}

func ExampleSealed() {
	f, err := systemd.Sealed("state", []byte("41 sessions"))
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	_, err = f.WriteString("!")
	fmt.Println("cannot be changed:", errors.Is(err, syscall.EPERM))
	state, err := systemd.ReadSealed(f, 1<<20)
	fmt.Printf("%s, %v\n", state, err)
	// Output:
	// cannot be changed: true
	// 41 sessions, <nil>
}

func ExampleWatchdogInterval() {
	interval, err := systemd.WatchdogInterval()
	if err != nil {
		log.Fatal(err)
	}
	if interval > 0 {
		go func() {
			for range time.Tick(interval / 2) {
				_, _ = systemd.Notify(context.Background(), systemd.Watchdog)
			}
		}()
	}
	fmt.Println(interval)
	// Output: 0s
}

func ExampleReloading() {
	reloading := systemd.Reloading()
	_, timed := reloading.Get("MONOTONIC_USEC")
	fmt.Println(strings.HasPrefix(string(reloading), "RELOADING=1"), timed)
	// Output: true true
}

func ExampleStatus() {
	fmt.Println(systemd.Status("draining\n3 connections"))
	// Output: STATUS=draining 3 connections
}

func ExampleErrno() {
	fmt.Println(systemd.Errno(syscall.EADDRINUSE) == "ERRNO=98")
	// Output: true
}

func ExampleExtendTimeout() {
	fmt.Println(systemd.ExtendTimeout(10 * time.Second))
	// Output: EXTEND_TIMEOUT_USEC=10000000
}

func ExampleMainPID() {
	pid, ok := systemd.MainPID(4711).Get("MAINPID")
	fmt.Println(pid, ok)
	// Output: 4711 true
}

// A supervisor waits until the program that it has started is ready.
func ExampleListenNotify() {
	dir, err := os.MkdirTemp("", "systemd-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := systemd.ListenNotify(filepath.Join(dir, "notify"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	// NOTIFY_SOCKET goes into the program's environment, cmd.Env. Here this process is the program.
	os.Setenv("NOTIFY_SOCKET", l.Addr())
	defer os.Unsetenv("NOTIFY_SOCKET")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := systemd.Notify(ctx, systemd.Ready); err != nil {
		log.Fatal(err)
	}

	n, err := l.Receive(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close() // closes descriptors that came along
	fmt.Println(n.State, n.Sender.PID == os.Getpid())
	// Output: READY=1 true
}

// A child gets a listening socket as the service manager would give it.
func ExampleStart() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close() // borrowed: it is ours, and it does not turn blocking
	cmd := exec.Command("sh", "-c", `test $LISTEN_PID = $$ && echo $LISTEN_FDS $LISTEN_FDNAMES`)
	cmd.Stdout = os.Stdout
	if err := systemd.Start(cmd, systemd.Named{Name: "web", Conn: ln.(*net.TCPListener)}); err != nil {
		log.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		log.Fatal(err)
	}
	// Output: 1 web
}
