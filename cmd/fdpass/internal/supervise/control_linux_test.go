package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// play writes text in pieces to c and ends.
func play(c *net.UnixConn, text []byte, piece int) {
	for len(text) > 0 {
		n := min(len(text), max(piece, 1))
		if _, err := c.Write(text[:n]); err != nil {
			return
		}
		text = text[n:]
	}
	_ = c.CloseWrite()
}

func controlPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	a, b, err := socketpair.New(socketpair.Stream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// askOne asks somebody who answers that, and returns what a person would see.
func askOne(t testing.TB, do string, answer []byte, piece int) (shown string, err error) {
	t.Helper()
	near, far := controlPair(t)
	go func() { _, _ = io.Copy(io.Discard, far) }()
	go play(far, answer, piece)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := Ask(ctx, near, Request{Do: do})
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if do == "status" {
		err = a.Status.Write(&out)
	}
	return out.String(), err
}

func forTerminal(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' })
}

var answers = []string{
	`{}`, `{"error":"generation 2: it was not ready within 1m0s"}`, `{"version":"v1.2"}`,
	`{"status":{"name":"web","pid":4711,"version":"v1","uptime":1.5,"sockets":[{"name":"http","address":"tcp:127.0.0.1:80","bound":"127.0.0.1:80","fd":3}],` +
		`"generations":[{"generation":1,"pid":4712,"state":"live","uptime":1.2,"status":"serving","failure":""}]}}`,
	`{"status":{"name":"\u001b[2J","generations":[{"state":"\u009b1m","failure":"a\nb\tc"}]}}`, `{"error":"\u001b]0;x\u0007"}`,
	`null`, `[]`, `{"status":null}`, `{"error":1}`, `{"status":{"uptime":1e308}}`, "", "\x1b", `{"error":"` + strings.Repeat("x", 5000),
}

// Whatever a service answers, there is an error or something that a terminal can show.
func FuzzAnswer(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a), uint8(255), true)
		f.Add([]byte(a), uint8(7), false)
	}
	f.Fuzz(func(t *testing.T, answer []byte, piece uint8, status bool) {
		do := "restart"
		if status {
			do = "status"
		}
		shown, err := askOne(t, do, answer, int(piece))
		if err != nil && !forTerminal(err.Error()) {
			t.Errorf("%q", err)
		}
		if !forTerminal(shown) {
			t.Errorf("%q", shown)
		}
	})
}

// A service that root asks may belong to anybody.
func TestHostileAnswer(t *testing.T) {
	testutil.NoLeaks(t)
	for name, c := range map[string]struct{ answer, shown, err string }{
		"endless":   {`{"error":"` + strings.Repeat("x", 2*mostOfAnswer), "", "its answer is longer than"},
		"no status": {`{}`, "", "its answer has no status"},
		"colours":   {`{"status":{"name":"\u001b[2Jweb","generations":[{"status":"\u009b1mfine"}]}}`, "1mfine", ""},
		"error":     {`{"error":"\u001b[2Jno"}`, "", "[2Jno"},
		"no JSON":   {"\x1b[2J", "", "its answer"},
	} {
		shown, err := askOne(t, "status", []byte(c.answer), 64<<10)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(shown, c.shown) || !forTerminal(shown) || err != nil && !forTerminal(err.Error()) {
			t.Errorf("%s: %q, %v", name, shown, err)
		}
	}
}

// Whatever a client asks, in whatever pieces, it gets one answer, and the service goes on.
func FuzzRequest(f *testing.F) {
	for _, r := range []string{
		`{"do":"status"}`, `{"do":"status"}{"do":"status"}`, `{"do":""}`, `{}`, `null`, `{"do":"\u001b[2J"}`, `{"do":1}`, "", "x",
		`{"do":"` + strings.Repeat("x", most), strings.Repeat(" ", most),
	} {
		f.Add([]byte(r), uint8(255))
		f.Add([]byte(r), uint8(2))
	}
	s := newSupervisor(Config{Name: "web", Version: "v1"})
	f.Fuzz(func(t *testing.T, request []byte, piece uint8) {
		var r Request
		_ = json.NewDecoder(bytes.NewReader(request)).Decode(&r)
		if r.Do == "restart" || r.Do == "replace" { // what they do is not of interest here
			return
		}
		near, far := controlPair(t)
		_ = far.SetDeadline(time.Now().Add(time.Minute))
		go play(far, request, int(piece))
		s.serveClient(near)
		answer, err := io.ReadAll(far)
		if err != nil && len(answer) == 0 {
			return // it was reset: more was sent than was read
		}
		var a Answer
		if err := json.Unmarshal(answer, &a); err != nil {
			t.Fatalf("%q: %v", answer, err)
		}
		if (r.Do == "status") != (a.Status != nil) || (a.Status == nil) != (a.Error != "") {
			t.Errorf("%q is answered with %q", request, answer)
		}
	})
}
