//go:build linux

package credentials_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/fdkit/fdkit/credentials"
	"github.com/fdkit/fdkit/internal/cmsg"
	"github.com/fdkit/fdkit/internal/testutil"
	"github.com/fdkit/fdkit/socketpair"
)

// The other end stops at each byte: it closes, or says no more, or says something else.
func TestExchangeCutOff(t *testing.T) {
	testutil.NoLeaks(t)
	for i := range message {
		for _, style := range styles {
			begin := func() (a, b *net.UnixConn) {
				a, b = pair(t, style)
				if i > 0 {
					send(t, b, []byte(message[:i]), stamp())
				}
				return a, b
			}
			if style != socketpair.Datagram { // which has no end
				a, b := begin()
				b.Close()
				got := <-exchange(t.Context(), a)
				if !errors.Is(got.err, credentials.ErrPeerGone) && !errors.Is(got.err, credentials.ErrProtocol) {
					t.Errorf("%v: closed after %d bytes: %v", style, i, got.err)
				}
			}
			a, _ := begin()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			var got result
			select {
			case got = <-exchange(ctx, a):
			case <-time.After(time.Minute):
				t.Fatalf("%v: silent after %d bytes: still not back", style, i)
			}
			cancel()
			if !errors.Is(got.err, context.DeadlineExceeded) && !errors.Is(got.err, credentials.ErrProtocol) {
				t.Errorf("%v: silent after %d bytes: %v", style, i, got.err)
			}
		}
	}
}

// The other end says other things than it should.
func TestExchangeWithHostile(t *testing.T) {
	long := message + message
	for name, p := range map[string][]byte{"another message": []byte("fdkit identity 9"), "one byte": {0}, "nothing like it": []byte("GET / HTTP/1.1\r\n\r\n")} {
		for _, style := range styles {
			t.Run(name+"/"+style.String(), func(t *testing.T) {
				testutil.NoLeaks(t)
				a, b := pair(t, style)
				send(t, b, p, stamp())
				refused(t, <-exchange(t.Context(), a), credentials.ErrProtocol)
			})
		}
	}
	for _, style := range styles {
		t.Run("descriptors/"+style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			send(t, b, []byte(message), cmsg.AppendRights(stamp(), make([]int, cmsg.MaxFDs)))
			refused(t, <-exchange(t.Context(), a), credentials.ErrProtocol)
		})
		t.Run("too long/"+style.String(), func(t *testing.T) {
			testutil.NoLeaks(t)
			a, b := pair(t, style)
			send(t, b, []byte(long), stamp())
			got := <-exchange(t.Context(), a)
			if style == socketpair.Stream { // what comes behind it is not the Exchange's
				senderIs(t, got, self())
				return
			}
			refused(t, got, credentials.ErrProtocol)
		})
	}
}
