package supervise

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

func TestLastLine(t *testing.T) {
	for _, c := range []struct{ said, want string }{
		{"", ""},
		{"\n\n", ""},
		{"starting\nbad configuration\n\n", "bad configuration"},
		{"starting\n  half a line", "half a line"},
		{"/app/server.js:1\nthrow new Error('broken')\n^\n\nError: broken\n    at Object.<anonymous> (/app/server.js:1:7)\n    at error (x)\n\nNode.js v20.20.2\n", "Error: broken"},
		{"Traceback (most recent call last):\n  File \"hello.py\", line 4\n    syntax error\nSyntaxError: invalid syntax\n", "SyntaxError: invalid syntax"},
		{"nginx: [emerg] unknown directive\n", "nginx: [emerg] unknown directive"},
		{"panic: no\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:1 +0x1\nexit status 2\n", "panic: no"},
		{"\x1b[31mred\x1b[0m \xff\r\n", "[31mred[0m �"},
	} {
		r := new(relay)
		r.tail.text = []byte(c.said)
		if got := r.lastLine(); got != c.want {
			t.Errorf("%q: %q, want %q", c.said, got, c.want)
		}
	}
}

// Everything is passed on, to the end, by a pipe that is slower than its writer; of it the end is remembered.
func TestRelay(t *testing.T) {
	testutil.NoLeaks(t)
	var in, out [2]int
	for _, p := range [][]int{in[:], out[:]} {
		if err := unix.Pipe2(p, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newRelay(in[0], out[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789abcde\n", 20000) + "the end\n"
	go func() {
		w := os.NewFile(uintptr(in[1]), "in")
		_, _ = w.WriteString(text)
		w.Close()
		<-r.done
		unix.Close(out[1])
	}()
	var got strings.Builder
	buf := make([]byte, 1000)
	for {
		n, err := unix.Read(out[0], buf)
		if n <= 0 {
			if err != nil {
				t.Error(err)
			}
			break
		}
		got.Write(buf[:n])
	}
	unix.Close(out[0])
	if got.String() != text {
		t.Errorf("%d bytes of %d", got.Len(), len(text))
	}
	if tail := r.text(); len(tail) != tailSize || r.lastLine() != "the end" {
		t.Errorf("remembers %d bytes, %q", len(tail), r.lastLine())
	}
	r.drain(time.Now().Add(time.Minute)) // of one that has ended: nothing
}

// Nobody reads our standard error: passing on does not fail the program, and a stuck one can be told.
func TestRelayStuck(t *testing.T) {
	testutil.NoLeaks(t)
	var in, out [2]int
	for _, p := range [][]int{in[:], out[:]} {
		if err := unix.Pipe2(p, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newRelay(in[0], out[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	w := os.NewFile(uintptr(in[1]), "in")
	go w.WriteString(strings.Repeat("x", 1<<20))
	testutil.Eventually(t, "it is stuck", func() bool {
		if !r.pause(100 * time.Millisecond) {
			return true
		}
		r.resume()
		return false
	})
	r.drain(time.Now()) // does not wait for it
	unix.Close(out[0])  // the reader goes, and what it would have read is thrown away
	testutil.Eventually(t, "it goes on", func() bool { return r.pause(0) })
	r.resume()
	w.Close()
	<-r.done
	unix.Close(out[1])
}
