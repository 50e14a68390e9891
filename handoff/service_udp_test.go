//go:build linux

package handoff

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

// anEcho is a UDP service that sends every datagram back, and keeps a memfd.
var anEcho = testutil.NewHelper("echo", func(args []string) error {
	ctx := context.Background()
	o := Options{Name: "echo", Socket: args[0], Deadlines: Deadlines{Probation: 20 * time.Millisecond, MaxPause: patient}}
	if len(args) > 2 { // its pause ends with standard input
		o.Final = func(context.Context) (Final, error) {
			_, err := io.Copy(io.Discard, os.Stdin)
			return Final{}, err
		}
	}
	o.Events = func(e Event) {
		_ = json.NewEncoder(os.Stdout).Encode(line{Event: string(e.Kind), PID: os.Getpid(), Dropped: e.Dropped})
	}
	svc, err := Start(ctx, o)
	if err != nil {
		return err
	}
	conn, err := svc.ListenPacket("udp", args[1])
	if err != nil {
		return err
	}
	go func() {
		p := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(p[:n], from)
		}
	}()
	notes, err := adoptNotes(svc)
	if err != nil {
		return err
	}
	defer notes.Close()
	if err := svc.Ready(ctx); err != nil {
		return err
	}
	text, err := io.ReadAll(io.NewSectionReader(notes, 0, 1000))
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(line{Event: "ready", PID: os.Getpid(), Addr: conn.LocalAddr().String(), State: string(text)}); err != nil {
		return err
	}
	<-svc.Stopping()
	if svc.Reason() == Told {
		n, err := conn.(pausablePacketConn).base().dropped()
		if err != nil {
			return err
		}
		_ = json.NewEncoder(os.Stdout).Encode(line{Event: "dropped", PID: os.Getpid(), Dropped: int(n)})
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return svc.Drain(ctx)
})

// adoptNotes takes the predecessor's memfd, or makes one, and adds a line.
func adoptNotes(svc *Service) (*os.File, error) {
	var notes *os.File
	for _, it := range svc.Adopted() {
		if it.Name != "notes" || string(it.Meta) != "v1" {
			return nil, fmt.Errorf("adopted %q with %q", it.Name, it.Meta)
		}
		notes = it.TakeFile()
	}
	if notes == nil {
		if svc.Generation() > 1 {
			return nil, errors.New("no notes from the predecessor")
		}
		fd, err := unix.MemfdCreate("notes", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		notes = os.NewFile(uintptr(fd), "notes")
	}
	if _, err := notes.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(notes, "%d ", svc.Generation()); err != nil {
		return nil, err
	}
	return notes, svc.Keep(Item{Name: "notes", Kind: File, Conn: notes, Meta: []byte("v1")})
}

// No datagram is lost or answered twice over ten upgrades, at 2000 a second with the default buffer, and
// the memfd goes along.
func TestServiceUDP(t *testing.T) {
	c := config(t)
	first := launchHelper(t, anEcho, c.Socket, "127.0.0.1:0")
	ready := first.await("ready")
	client, err := net.Dial("udp", ready.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.(*net.UDPConn).SetReadBuffer(1 << 20) // the answers are not what is tested
	const rate = 2000
	sent := uint32(0)
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for start := time.Now(); ; {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			for ; sent < uint32(time.Since(start)*rate/time.Second); sent++ {
				if _, err := client.Write(binary.BigEndian.AppendUint32(nil, sent)); err != nil {
					t.Errorf("send: %v", err) // ECONNREFUSED: nobody has the socket
				}
			}
		}
	}()
	const last = "last one"
	answers := map[uint32]int{}
	received, lastAnswered := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(received)
		p := make([]byte, 10)
		for {
			n, err := client.Read(p)
			switch {
			case err != nil:
				return
			case n == 4:
				answers[binary.BigEndian.Uint32(p)]++
			case n == len(last):
				notify(lastAnswered)
			}
		}
	}()
	want := "1 "
	for i := range 10 {
		second := launchHelper(t, anEcho, c.Socket, "127.0.0.1:0")
		next := second.await("ready")
		want += fmt.Sprint(i+2, " ")
		if next.Addr != ready.Addr || next.State != want {
			t.Fatalf("%+v, want the notes %q", next, want)
		}
		<-first.ended
		first = second
	}
	close(stop)
	<-stopped
	again := false
	for answered := false; !answered; {
		if _, err := client.Write([]byte(last)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-lastAnswered:
			answered = true
		case <-first.ended:
			t.Fatal("nobody is there")
		case <-time.After(100 * time.Millisecond):
			again = true // as it may find no room
		}
	}
	_ = client.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // that nothing more comes has no event
	<-received
	unread, err := dropped(client.(*net.UDPConn))
	if err != nil {
		t.Fatal(err)
	}
	lost, twice := 0, 0
	for i := range sent {
		switch {
		case answers[i] == 0:
			lost++
		case answers[i] > 1:
			twice++
		}
	}
	_ = first.Process.Signal(syscall.SIGTERM)
	// What the machine was too slow for, between the two readers or at any other moment, the kernel has counted.
	unanswered := first.await("dropped").Dropped
	t.Logf("%d datagrams, %d of them had no room, nor had %d answers", sent, unanswered, unread)
	// The last one, sent often, may have been among what had no room.
	if none := unanswered + int(unread); lost > none || lost < none && !again || twice > 0 {
		t.Errorf("%d lost, of which %d had no room, and their answers %d, and %d answered twice, of %d", lost, unanswered, unread, twice, sent)
	}
	if err := <-first.ended; err != nil {
		t.Errorf("the last one: %v", err)
	}
}

// What comes in a pause and does not fit into the kernel's queue is counted, to the datagram.
func TestServiceUDPDropped(t *testing.T) {
	c := config(t)
	cmd := anEcho.Command(t, c.Socket, "127.0.0.1:0", "hold")
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	first := launchCommand(t, cmd)
	ready := first.await("ready")
	client, err := net.Dial("udp", ready.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.(*net.UDPConn).SetReadBuffer(1 << 20) // the answers are not what is tested
	second := launchHelper(t, anEcho, c.Socket, "127.0.0.1:0")
	first.await(string(EventPaused))
	const sent = 3000 // the default queue holds some hundreds
	for i := range uint32(sent) {
		if _, err := client.Write(binary.BigEndian.AppendUint32(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	hold.Close()
	second.await("ready")
	handed := first.await(string(EventHanded))
	answered := 0
	p := make([]byte, 10)
	for _ = client.SetReadDeadline(time.Now().Add(20 * time.Second)); answered < sent-handed.Dropped; answered++ {
		if _, err := client.Read(p); err != nil {
			t.Fatalf("%d answers, %d sent, %d dropped: %v", answered, sent, handed.Dropped, err)
		}
	}
	_ = client.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // that nothing comes has no event
	if _, err := client.Read(p); err == nil {
		t.Error("more answers than were not dropped")
	}
	if handed.Dropped == 0 {
		t.Error("nothing was dropped: the queue is too large for this test")
	}
	t.Logf("%d of %d dropped", handed.Dropped, sent)
}
