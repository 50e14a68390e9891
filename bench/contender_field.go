package main

import (
	"context"
	"net"
	"os"
	"syscall"

	descriptors "github.com/ftrvxmtrx/fd"
	"github.com/mdlayher/socket"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/unet"

	"github.com/fdkit/fdkit/socketpair"
)

// theirs are what else there is.
var theirs = []contender{
	{name: "net + syscall", over: func(c *net.UnixConn) (end, error) { return &standard{UnixConn: c}, nil }},
	{name: "net + syscall, files", over: func(c *net.UnixConn) (end, error) { return &standardFiles{standard{UnixConn: c}}, nil }},
	{name: "gVisor unet", number: newUnet, only: []socketpair.Style{socketpair.Stream, socketpair.SeqPacket}},
	{name: "runc cmsg", number: newRunc, max: 1},
	{name: "mdlayher/socket", number: newMdlayher},
	{name: "ftrvxmtrx/fd", over: func(c *net.UnixConn) (end, error) { return &ftrvxmtrx{c}, nil }, only: []socketpair.Style{socketpair.Stream}},
}

// standard is what most people write: package net and the parsers of package syscall.
type standard struct {
	*net.UnixConn
	buf [8]byte
	oob []byte
}

func (e *standard) send(p *payload) error {
	_, _, err := e.WriteMsgUnix(p.data, syscall.UnixRights(p.numbers...), nil)
	return err
}

func (e *standard) receiveNumbers(p *payload) ([]int, error) {
	if e.oob == nil {
		e.oob = make([]byte, syscall.CmsgSpace(4*len(p.numbers)))
	}
	_, n, _, _, err := e.ReadMsgUnix(e.buf[:], e.oob)
	if err != nil {
		return nil, err
	}
	return parse(e.oob[:n], p)
}

func parse(oob []byte, p *payload) ([]int, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, errCount
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return fds, wanted(len(fds), p)
}

func (e *standard) receive(p *payload) error {
	fds, err := e.receiveNumbers(p)
	closeEach(fds)
	return err
}

func (e *standard) close() error { return e.Close() }

// standardFiles makes a file of each.
type standardFiles struct{ standard }

func (e *standardFiles) receive(p *payload) error {
	fds, err := e.receiveNumbers(p)
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "")
	}
	for _, f := range files {
		_ = f.Close()
	}
	return err
}

// gvisor is package unet.
type gvisor struct {
	*unet.Socket
	buf [8]byte
}

func newUnet(fd int) (end, error) {
	s, err := unet.NewSocket(fd)
	if err != nil {
		return nil, err
	}
	return &gvisor{Socket: s}, nil
}

func (e *gvisor) send(p *payload) error {
	w := e.Writer(true)
	w.PackFDs(p.numbers...)
	_, err := w.WriteVec([][]byte{p.data})
	return err
}

func (e *gvisor) receive(p *payload) error {
	r := e.Reader(true)
	r.EnableFDs(len(p.numbers))
	if _, err := r.ReadVec([][]byte{e.buf[:]}); err != nil {
		return err
	}
	fds, err := r.ExtractFDs()
	closeEach(fds)
	if err != nil {
		return err
	}
	return wanted(len(fds), p)
}

func (e *gvisor) close() error { return e.Close() }

// runc is the helper of libcontainer, which passes one file and its name.
type runc struct{ *os.File }

func newRunc(fd int) (end, error) { return &runc{os.NewFile(uintptr(fd), "pair")}, nil }

func (e *runc) send(p *payload) error {
	return utils.SendFile(e.File, p.files[0]) //nolint:staticcheck // deprecated since it became internal
}

func (e *runc) receive(*payload) error {
	f, err := utils.RecvFile(e.File) //nolint:staticcheck // as above
	if err != nil {
		return err
	}
	return f.Close()
}

func (e *runc) close() error { return e.Close() }

// mdlayher is package socket, with the parsers of package syscall.
type mdlayher struct {
	*socket.Conn
	buf [8]byte
	oob []byte
}

func newMdlayher(fd int) (end, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	c, err := socket.New(fd, "pair")
	if err != nil {
		return nil, err
	}
	return &mdlayher{Conn: c}, nil
}

func (e *mdlayher) send(p *payload) error {
	_, err := e.Sendmsg(context.Background(), p.data, syscall.UnixRights(p.numbers...), nil, 0)
	return err
}

func (e *mdlayher) receive(p *payload) error {
	if e.oob == nil {
		e.oob = make([]byte, syscall.CmsgSpace(4*len(p.numbers)))
	}
	_, n, _, _, err := e.Recvmsg(context.Background(), e.buf[:], e.oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	fds, err := parse(e.oob[:n], p)
	closeEach(fds)
	return err
}

func (e *mdlayher) close() error { return e.Close() }

// ftrvxmtrx is package fd.
type ftrvxmtrx struct{ *net.UnixConn }

func (e *ftrvxmtrx) send(p *payload) error { return descriptors.Put(e.UnixConn, p.files...) }

func (e *ftrvxmtrx) receive(p *payload) error {
	files, err := descriptors.Get(e.UnixConn, len(p.files), nil)
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		return err
	}
	return wanted(len(files), p)
}

func (e *ftrvxmtrx) close() error { return e.Close() }
