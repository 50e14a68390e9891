package supervise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/address"
	"github.com/fdkit/fdkit/cmd/fdpass/internal/signals"
	"github.com/fdkit/fdkit/internal/sysfd"
)

// The replacement of the supervisor by another version of fdpass, in place. The new program is first run
// as a child that only looks at the state; when it says that it understands it, exec(2) makes this
// process the new program. The pid stays, so the children stay, and descriptors stay under their numbers.
// What is not in a descriptor is in a sealed memfd.

// stateVersion is that of the format below. It changes when an older fdpass could not go on from it.
const stateVersion = 1

type state struct {
	Version     int               `json:"version"`
	Name        string            `json:"name"`
	Started     time.Time         `json:"started"`
	Next        int               `json:"next"`
	Deaths      int               `json:"deaths"`
	Sockets     []socketState     `json:"sockets"`
	Control     *socketState      `json:"control,omitempty"`
	Generations []generationState `json:"generations"`
	Failed      *GenerationStatus `json:"failed,omitempty"`
	Relays      []int             `json:"relays,omitempty"`  // standard errors of generations that have ended
	Client      int               `json:"client"`            // who asked for the replacement, -1 for nobody
	Guard       int               `json:"guard"`             // of the moment, -1 for none
	Signals     []int             `json:"signals,omitempty"` // that have come and were not handled
}

type socketState struct {
	Address address.Address `json:"address"`
	FD      int             `json:"fd"`
	Bound   string          `json:"bound"`
	Made    address.PathID  `json:"made"`
}

type generationState struct {
	Number   int       `json:"number"`
	PID      int       `json:"pid"`
	State    State     `json:"state"`
	Started  time.Time `json:"started"`
	Deadline time.Time `json:"deadline"`
	Stopped  bool      `json:"stopped"`
	Says     string    `json:"says"`
	Notify   int       `json:"notify"` // -1 for none
	Name     string    `json:"notifyName"`
	Stderr   int       `json:"stderr"`
	Tail     []byte    `json:"tail"`
}

// A check is the trial run of a replacement.
type check struct {
	pid    int
	output *os.File // what it says, at once in the pipe
	timer  *time.Timer
	late   bool
}

// kill ends it and what it has started.
func (c *check) kill() { _ = unix.Kill(-c.pid, unix.SIGKILL) }

// understood is what Check prints in front of its version.
const understood = "fdpass understands this state, version "

// checkPatience is how long the trial run may take.
const checkPatience = 20 * time.Second

// askReplace begins a replacement, at once or when nothing is starting any more.
func (s *Supervisor) askReplace(c *client) {
	if s.stopping {
		c.fail(errStopping)
		return
	}
	if c != nil {
		s.clients = append(s.clients, c)
	}
	s.replace = true
	if !s.busy() && s.check == nil {
		s.checkReplacement()
	}
}

// notReplaced tells that everything stays as it is.
func (s *Supervisor) notReplaced(err error) {
	s.replace = false
	err = errors.WithMessagef(err, "not replaced by %s", s.Self)
	s.logf("%v", err)
	for _, c := range s.clients {
		c.fail(err)
	}
	s.clients = nil
}

// checkReplacement starts the trial run.
func (s *Supervisor) checkReplacement() {
	if err := s.startCheck(); err != nil {
		s.notReplaced(err)
	}
}

func (s *Supervisor) startCheck() error {
	memory, err := s.save(s.state(-1))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(memory) }()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	defer func() { _ = unix.Close(pipe[1]) }()
	output := os.NewFile(uintptr(pipe[0]), "check")
	nothing, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = output.Close()
		return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer func() { _ = unix.Close(nothing) }()
	pid, _, err := syscall.StartProcess(s.Self, s.selfArgs(CheckFlag, 3), &syscall.ProcAttr{Env: os.Environ(),
		Files: []uintptr{uintptr(nothing), uintptr(pipe[1]), uintptr(pipe[1]), uintptr(memory)},
		Sys:   &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		_ = output.Close()
		return &os.PathError{Op: "start", Path: s.Self, Err: err}
	}
	run := &check{pid: pid, output: output}
	run.timer = time.AfterFunc(checkPatience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.check == run {
			run.late = true
			run.kill()
		}
	})
	s.check = run
	return nil
}

// selfArgs are the arguments of this program with a flag more.
func (s *Supervisor) selfArgs(flag string, fd int) []string {
	args := append([]string{s.Self}, s.SelfArgs...)
	return slices.Insert(args, 1+s.SelfFlag, "--"+flag+"="+strconv.Itoa(fd))
}

// checked goes on after the trial run.
func (s *Supervisor) checked(end unix.WaitStatus) {
	run := s.check
	s.check = nil
	run.timer.Stop()
	// It has ended and a pipe holds more than this: there is nothing to wait for, unless it left somebody
	// behind that holds the other end.
	said := make([]byte, 4096)
	n := 0
	_ = sysfd.Control(run.output, func(fd int) error {
		if pollIn(uintptr(fd)) {
			n, _ = unix.Read(fd, said)
		}
		return nil
	})
	_ = run.output.Close()
	text := strings.TrimSpace(string(said[:max(n, 0)]))
	ok := strings.Contains(text, understood)
	switch {
	case s.stopping:
		s.notReplaced(errStopping)
	case run.late:
		s.notReplaced(errors.Errorf("its trial run took longer than %v", checkPatience))
	case !end.Exited() || end.ExitStatus() != 0 || !ok:
		if text == "" {
			text = "it does not say why"
		}
		s.notReplaced(errors.Errorf("its trial run: %s: %s", describe(end), printable(text[strings.LastIndexByte(text, '\n')+1:])))
	case s.busy():
		// It will be tried again when that is over.
	default:
		s.notReplaced(s.become())
	}
}

// Check is the trial run: it says whether a supervisor of this Config could go on from the state in the
// memfd fd, which is taken over.
func Check(c Config, fd int, out io.Writer) error {
	st, err := load(fd)
	if err != nil {
		return err
	}
	if err := c.fits(st); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s%s\n", understood, c.Version)
	return err
}

// fits reports why the state cannot be that of this Config.
func (c *Config) fits(st *state) error {
	if st.Version != stateVersion {
		return errors.Errorf("the running fdpass has a state of version %d, this one understands %d", st.Version, stateVersion)
	}
	if len(st.Sockets) != len(c.Sockets) {
		return errors.Errorf("%d sockets are held, the command line has %d", len(st.Sockets), len(c.Sockets))
	}
	for i, k := range st.Sockets {
		if k.Address != c.Sockets[i] {
			return errors.Errorf("%s is held, the command line says %s", k.Address, c.Sockets[i])
		}
	}
	if st.Name != c.Name {
		return errors.Errorf("the service is called %q, not %q", st.Name, c.Name)
	}
	return nil
}

// state describes everything, and borrows all descriptors.
func (s *Supervisor) state(client int) *state {
	st := &state{Version: stateVersion, Name: s.Name, Started: s.started, Next: s.next, Deaths: s.deaths, Failed: s.failed, Client: client, Guard: -1}
	for _, k := range s.sockets {
		st.Sockets = append(st.Sockets, socketState{k.Address, k.FD, k.Bound, k.Made})
	}
	if s.control != nil {
		k := &s.control.socket
		st.Control = &socketState{k.Address, s.control.number(), k.Bound, k.Made}
	}
	loose := map[*relay]bool{}
	for r := range s.relays {
		loose[r] = true
	}
	for _, g := range s.generations {
		gs := generationState{Number: g.number, PID: g.pid, State: g.state, Started: g.started,
			Deadline: g.deadline, Stopped: g.stopped, Says: g.says, Notify: -1, Stderr: number(g.relay.file), Tail: g.relay.text()}
		if g.notify != nil {
			gs.Notify, gs.Name = g.notify.number(), g.notify.name
		}
		delete(loose, g.relay)
		st.Generations = append(st.Generations, gs)
	}
	for r := range loose {
		if fd := number(r.file); fd >= 0 {
			st.Relays = append(st.Relays, fd)
		}
	}
	return st
}

// numbers are all descriptors of a state.
func (st *state) numbers() (fds []int) {
	for _, k := range st.Sockets {
		fds = append(fds, k.FD)
	}
	if st.Control != nil {
		fds = append(fds, st.Control.FD)
	}
	for _, g := range st.Generations {
		fds = append(fds, g.Notify, g.Stderr)
	}
	fds = append(fds, st.Relays...)
	fds = append(fds, st.Client, st.Guard)
	return slices.DeleteFunc(fds, func(fd int) bool { return fd < 0 })
}

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// save returns a memfd with the state.
func (s *Supervisor) save(st *state) (fd int, err error) {
	text, err := json.Marshal(st)
	if err != nil {
		return -1, errors.WithStack(err)
	}
	if fd, err = unix.MemfdCreate("fdpass-state", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for rest := text; len(rest) > 0 && err == nil; {
		var n int
		if n, err = unix.Write(fd, rest); err == unix.EINTR {
			err = nil
		}
		rest = rest[max(n, 0):]
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("write", err)
	}
	return fd, nil
}

// load reads the state in the memfd fd, which it closes.
func load(fd int) (*state, error) {
	defer func() { _ = unix.Close(fd) }()
	if have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || have&seals != seals {
		return nil, errors.Errorf("descriptor %d is no state of fdpass", fd)
	}
	var size unix.Stat_t
	if err := unix.Fstat(fd, &size); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	text := make([]byte, size.Size)
	if n, err := unix.Pread(fd, text, 0); err != nil || n != len(text) {
		return nil, errors.Errorf("cannot read the state: %d bytes of %d, %v", n, len(text), err)
	}
	st := new(state)
	decode := json.NewDecoder(bytes.NewReader(text))
	if err := decode.Decode(st); err != nil {
		return nil, errors.WithMessage(err, "cannot read the state")
	}
	return st, nil
}

// held stay pending between this program and its replacement: blocked, which exec(2) keeps. The runtime
// of Go unblocks those that are fatal for a program that does not take them: see package signals, and
// GuardCommand.
var held = []syscall.Signal{unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE}

// become executes the replacement. It returns only with an error, and then everything is as before.
func (s *Supervisor) become() error {
	var paused []*relay
	defer func() {
		for _, r := range paused {
			r.resume()
		}
	}()
	for r := range s.relays {
		if !r.pause(outputPatience) {
			return errors.New("nobody reads the standard error")
		}
		paused = append(paused, r)
	}
	asker := -1
	if len(s.clients) > 0 {
		asker = number(s.clients[0].conn)
	}
	runtime.LockOSThread() // the signal mask is the thread's
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	for _, sig := range held {
		set.Val[0] |= 1 << (uint(sig) - 1)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return os.NewSyscallError("sigprocmask", err)
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()

	guard, err := s.startGuard()
	if err != nil {
		return err
	}
	defer releaseGuard(guard)
	signals.Ignore()
	defer signals.Take()
	return s.exec(asker, guard)
}

// exec executes the replacement. It returns only with an error.
func (s *Supervisor) exec(asker, guard int) error {
	st := s.state(asker)
	st.Guard = guard
	var taken []os.Signal
	for len(signals.Inbox) > 0 {
		sig := <-signals.Inbox
		taken = append(taken, sig)
		st.Signals = append(st.Signals, int(sig.(syscall.Signal)))
	}
	defer func() {
		for _, sig := range taken {
			signals.Inbox <- sig // there is room: nobody else takes or waits
		}
	}()
	memory, err := s.save(st)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(memory) }()
	fds := append(st.numbers(), memory)
	defer func() {
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
	}()
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	args, env := s.selfArgs(StateFlag, memory), os.Environ()
	return &os.PathError{Op: "exec", Path: s.Self, Err: syscall.Exec(s.Self, args, env)}
}

// Resume goes on from the state in the memfd fd, in the process that saved it, and returns as Run does.
func Resume(c Config, fd int) (code int, err error) {
	st, err := load(fd)
	if err != nil {
		return 0, err
	}
	if err := c.fits(st); err != nil {
		return 0, err // cannot be: the trial run said that it does
	}
	for _, fd := range st.numbers() {
		unix.CloseOnExec(fd)
	}
	s := newSupervisor(c)
	s.started, s.next, s.deaths, s.failed = st.Started, st.Next, st.Deaths, st.Failed
	for _, k := range st.Sockets {
		s.sockets = append(s.sockets, &address.Socket{Address: k.Address, FD: k.FD, Bound: k.Bound, Made: k.Made})
	}
	s.mu.Lock()
	if k := st.Control; k != nil {
		if s.control, err = newControl(&address.Socket{Address: k.Address, FD: k.FD, Bound: k.Bound, Made: k.Made}); err != nil {
			s.logf("%v", err)
		}
	}
	for _, fd := range st.Relays {
		if r, err := newRelay(fd, int(s.stderr), nil); err == nil {
			s.relays[r] = true
		}
	}
	for _, gs := range st.Generations {
		s.resumeGeneration(gs)
	}
	s.listen()
	for _, sig := range st.Signals {
		s.handle(syscall.Signal(sig))
	}
	if st.Guard >= 0 {
		releaseGuard(st.Guard)
	}
	if st.Client >= 0 {
		s.resumeClient(st.Client)
	}
	s.mu.Unlock()
	return s.run(), nil
}

func (s *Supervisor) resumeGeneration(gs generationState) {
	g := &generation{number: gs.Number, pid: gs.PID, state: gs.State, started: gs.Started,
		stopped: gs.Stopped, says: gs.Says}
	var err error
	if g.relay, err = newRelay(gs.Stderr, int(s.stderr), gs.Tail); err != nil {
		s.logf("generation %d: %v", g.number, err)
	}
	s.relays[g.relay] = true
	if gs.Notify >= 0 {
		if g.notify, err = resumeNotifySocket(gs.Notify, gs.Name); err != nil {
			s.logf("generation %d: %v", g.number, err)
		} else {
			go s.listenTo(g)
		}
	}
	if !gs.Deadline.IsZero() && g.state == Draining {
		s.at(g, gs.Deadline, func() { s.overdue(g) })
	}
	s.generations = append(s.generations, g)
}

// resumeClient answers who asked the program before this one.
func (s *Supervisor) resumeClient(fd int) {
	file := os.NewFile(uintptr(fd), "client")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return
	}
	(&client{u}).answer(Answer{Version: s.Version})
}
