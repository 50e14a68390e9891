//go:build linux

package systemd_test

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/scm"
	"github.com/fdkit/fdkit/systemd"
)

// Whatever a datagram says, with or without descriptors, the next message of the service is heard, and what
// is asked of the state is one of its lines.
func FuzzReceive(f *testing.F) {
	for _, seed := range []string{
		"READY=1", "READY=1\nSTATUS=serving\nMAINPID=4711\n", "RELOADING=1\nMONOTONIC_USEC=12345",
		"FDSTORE=1\nFDNAME=state\nFDPOLL=0", "FDSTOREREMOVE=1\nFDNAME=a", "BARRIER=1", "BARRIER=1\n",
		"BARRIER=1\nREADY=1", "", "\n", "=", "==\n=", "READY", "MAINPID=-1", "\x00\xff", strings.Repeat("A", 4097),
	} {
		f.Add([]byte(seed), "READY", false)
		f.Add([]byte(seed), "FDNAME", true)
	}
	addr := filepath.Join(testutil.ShortDir(f), "notify")
	l, err := systemd.ListenNotify(addr)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	u, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		f.Fatal(err)
	}
	c, err := scm.NewConn(u)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	f.Fuzz(func(t *testing.T, message []byte, variable string, with bool) {
		if len(message) > 1<<16 || string(message) == "END=1" {
			return
		}
		var files []syscall.Conn
		if with {
			files = append(files, openNull(t))
		}
		if err := c.Send(message, files...); err != nil {
			t.Fatal(err)
		}
		if err := c.Send([]byte("END=1")); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := l.Receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			state := n.State
			n.Close()
			if state == "END=1" {
				return
			}
			if string(state) != string(message) {
				t.Fatalf("sent %q, received %q", message, state)
			}
			if v, ok := state.Get(variable); ok && !strings.Contains("\n"+string(state)+"\n", "\n"+variable+"="+v+"\n") {
				t.Errorf("%s of %q is %q", variable, state, v)
			}
		}
	})
}
