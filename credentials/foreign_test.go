//go:build linux

package credentials_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// Programs in other languages at the other end, which know nothing but the message.

func TestExchangeWithPython(t *testing.T) {
	python := testutil.NeedProgram(t, "python3")
	foreign(t, python, "testdata/exchange.py")
}

func TestExchangeWithC(t *testing.T) {
	cc := testutil.NeedProgram(t, "cc")
	program := filepath.Join(t.TempDir(), "exchange")
	out, err := exec.CommandContext(t.Context(), cc, "-Wall", "-Wextra", "-Werror", "-o", program, "testdata/exchange.c").CombinedOutput()
	if err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	foreign(t, program)
}

func foreign(t *testing.T, program string, args ...string) {
	for _, style := range styles {
		for _, order := range orders[1:] {
			t.Run(style.String()+" "+order, func(t *testing.T) {
				testutil.NoLeaks(t)
				conn, end, err := socketpair.ForChild(style)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				cmd := exec.CommandContext(t.Context(), program, append(args, "3", strconv.Itoa(os.Getpid()))...)
				cmd.Stderr = os.Stderr
				cmd.ExtraFiles = []*os.File{end}
				var ours <-chan result
				if order == "they late" {
					ours = exchange(t.Context(), conn)
					sent(t, conn)
				}
				child := start(t, cmd)
				end.Close()
				if order == "we late" {
					arrived(t, conn)
					ours = exchange(t.Context(), conn)
				}
				senderIs(t, <-ours, credentials.Cred{PID: child.pid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
				if got := child.answer(); got != self().String() {
					t.Errorf("it sees %s, want %v", got, self())
				}
				if err := child.end(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
