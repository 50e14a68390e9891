package testutil

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreeAddress returns a host and port, free for TCP and UDP, for whoever has to know them before there is a
// listener, or listens there again. Nobody comes upon them by chance: as a source address the kernel gives a
// client 127.0.0.1 and a port of ip_local_port_range (ip(7)), and this is neither.
func FreeAddress(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		n := rand.Uint32()
		addr := fmt.Sprintf("127.%d.%d.%d:%d", 1+n>>24%254, byte(n>>16), 1+byte(n>>8)%254, 10000+rand.IntN(20000))
		if err = listens(addr); err == nil {
			return addr
		}
	}
	t.Fatalf("no free address: %v", err)
	return ""
}

func listens(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
