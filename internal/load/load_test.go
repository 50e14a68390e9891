package load

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

const format = "generation %d pid %d path %s\n"

// accept gives both ends of a connection to the test.
func accept(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	client = d.(*net.TCPConn)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return client, c.(*net.TCPConn)
}

// arrived waits for something to read, an end or an error included. A read would take the error.
func arrived(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "something arrives", func() bool {
		n := 0
		_ = raw.Control(func(fd uintptr) {
			n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		})
		return n > 0
	})
}

func TestCheckIdle(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*net.TCPConn) error
		want func(error) bool
	}{
		{"FIN", (*net.TCPConn).Close, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"half closed", (*net.TCPConn).CloseWrite, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"reset", func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
			func(err error) bool { return errors.Is(err, unix.ECONNRESET) }},
		{"bytes", func(c *net.TCPConn) error { _, err := io.WriteString(c, "x"); return err },
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "nobody asked") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testutil.NoLeaks(t)
			client, server := accept(t)
			raw, err := client.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := checkIdle(raw); err != nil {
				t.Errorf("of an idle connection: %v", err)
			}
			if err := tt.do(server); err != nil {
				t.Fatal(err)
			}
			arrived(t, client)
			for range 2 { // a look changes nothing, but that it takes the error of a reset
				if err := checkIdle(raw); !tt.want(err) {
					if tt.name != "reset" || !errors.Is(err, io.EOF) {
						t.Errorf("%v", err)
					}
				}
			}
		})
	}
}

// Whatever a server does wrong is a failure, and nothing is asked a second time.
func TestClientNotices(t *testing.T) {
	good := "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n" + "generation 1 pid 2 path /7/1\n"
	for _, tt := range []struct{ name, answer, want string }{
		{"a good answer, and then silence", good, ""},
		{"no answer", "", "waiting for the answer"},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-Le", "waiting for the answer"},
		{"a short body", good[:len(good)-5], "in the answer"},
		{"another status", strings.Replace(good, "200 OK", "500 No", 1), "wrong answer"},
		{"the answer to another request", strings.Replace(good, "/7/1", "/8/1", 1), "wrong answer"},
		{"something else", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "wrong answer"},
		{"more than an answer to the last request", "HTTP/1.1 200 OK\r\nConnection: close\r\n" + good[len("HTTP/1.1 200 OK\r\n"):] + "!", "after the last answer: bytes that nobody asked for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testutil.NoLeaks(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			requests := make(chan int, 1)
			go func() {
				n := 0
				for {
					c, err := ln.Accept()
					if err != nil {
						requests <- n
						return
					}
					in := bufio.NewReader(c)
					for {
						line, err := in.ReadString('\n')
						if err != nil || line == "\r\n" {
							break
						}
					}
					n++
					_, _ = io.WriteString(c, tt.answer)
					_ = c.Close()
				}
			}()
			l := &Load{Begin: time.Now(), options: Options{Addr: ln.Addr().String(), Format: format}}
			c := &Client{load: l, id: 7, Kind: KeepAlive, Served: map[Origin]int64{}}
			err = c.request(0)
			c.hangUp()
			_ = ln.Close()
			if n := <-requests; n != 1 {
				t.Errorf("%d requests were sent", n)
			}
			if tt.want == "" {
				if err != nil || len(c.Samples) != 1 || c.Served[Origin{1, 2}] != 1 {
					t.Errorf("%v, %v, %v", err, c.Samples, c.Served)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestClientNoticesRefusal(t *testing.T) {
	testutil.NoLeaks(t)
	l := Start(Options{Addr: testutil.FreeAddress(t), Kinds: []Kind{New, KeepAlive, WithPauses, NewAtRate}, Format: format, Interval: time.Millisecond})
	testutil.Eventually(t, "failures", func() bool { return l.Failed.Load() >= 4 })
	l.Stop()
	for _, f := range l.Failures() {
		if !errors.Is(f.Err, unix.ECONNREFUSED) {
			t.Error(f)
		}
	}
}

// A client at a fixed rate asks as often as it should, and a late request has waited since it was due.
func TestFixedRate(t *testing.T) {
	testutil.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stalled := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/3") {
			<-stalled
		}
		_, _ = fmt.Fprintf(w, format, 1, 2, r.URL.Path)
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	const interval = 5 * time.Millisecond
	for _, kind := range []Kind{NewAtRate, KeptAtRate} {
		l := Start(Options{Addr: ln.Addr().String(), Kinds: []Kind{kind}, Format: format, Interval: interval})
		testutil.Eventually(t, "two requests", func() bool { return l.Answered.Load() == 2 })
		time.AfterFunc(20*interval, func() { stalled <- struct{}{} })
		testutil.Eventually(t, "those that were due meanwhile", func() bool { return l.Answered.Load() > 2+20 })
		l.Stop()
		c := l.Clients[0]
		if len(c.Failures) > 0 {
			t.Error(c.Failures)
		}
		for i := range c.Samples[:len(c.Samples)-1] {
			if got := c.Samples[i+1].Start - c.Samples[i].Start; got != interval {
				t.Fatalf("%v: request %d was due %v after the one before", c.Kind, i+1, got)
			}
		}
		if waited := c.Samples[3].Duration(); waited < 15*interval {
			t.Errorf("%v: a request that was due while another was stalled took %v", c.Kind, waited)
		}
	}
	_ = srv.Close()
	<-ended
}
