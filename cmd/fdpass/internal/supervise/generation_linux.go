package supervise

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/cmd/fdpass/internal/inherit"
)

// A generation is one start of the program, from then until it is reaped. Its pid cannot be reused
// before that, so a signal to it reaches nobody else.
type generation struct {
	number  int
	pid     int
	state   State
	started time.Time

	deadline time.Time // when the timer ends the state, zero for never
	timer    *time.Timer
	stopped  bool // its stop signal was sent

	notify *notifySocket // nil without
	relay  *relay
	says   string
	reaped bool

	verdict string                // why it was killed, "" if it was not
	askers  []func(failure error) // want to know whether it became live
}

// spawn starts the program in the supervisor's environment.
func (s *Supervisor) spawn(number int) (g *generation, err error) {
	path, err := inherit.Look(s.Command[0], s.Dir)
	if err != nil {
		return nil, err
	}
	program := inherit.Program{Way: s.Way.Name, Sockets: inherit.Sockets(s.sockets), Generation: number,
		NoPID: s.NoPID, Dir: s.Dir, Path: path, Args: s.Command}
	files := []uintptr{0, 1, 2}
	for i := range program.Sockets {
		files = append(files, uintptr(program.Sockets[i].FD))
		program.Sockets[i].FD = 3 + i
	}
	args, err := program.Command()
	if err != nil {
		return nil, err
	}

	g = &generation{number: number, state: Starting, started: time.Now()}
	env := environment()
	if s.Notify {
		if g.notify, err = newNotifySocket(s.Name, number); err != nil {
			return nil, err
		}
		env = append(env, "NOTIFY_SOCKET="+g.notify.name)
	}
	nothing, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.notify.close()
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer func() { _ = unix.Close(nothing) }()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		g.notify.close()
		return nil, os.NewSyscallError("pipe", err)
	}
	files[0], files[2] = uintptr(nothing), uintptr(pipe[1])
	g.pid, _, err = syscall.StartProcess("/proc/self/exe", args, &syscall.ProcAttr{Env: env, Files: files,
		Sys: &syscall.SysProcAttr{Setpgid: true}}) // a group of its own: it is killed with its workers
	_ = unix.Close(pipe[1])
	if err != nil {
		g.notify.close()
		_ = unix.Close(pipe[0])
		return nil, &os.PathError{Op: "start", Path: path, Err: err}
	}
	g.relay, err = newRelay(pipe[0], int(s.stderr), nil)
	if err != nil { // cannot be
		_ = unix.Close(pipe[0])
		g.kill(unix.SIGKILL)
		return nil, err
	}
	s.relays[g.relay] = true
	return g, nil
}

// environment is that of the program, but for its sockets: what a service manager told fdpass about fdpass
// is not for it.
func environment() (env []string) {
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE", "MAINPID":
		default:
			env = append(env, v)
		}
	}
	return env
}

func (g *generation) enter(state State) {
	g.state = state
	if g.timer != nil {
		g.timer.Stop()
	}
	g.timer, g.deadline = nil, time.Time{}
}

// signal signals the program, not its workers: that is its own task.
func (g *generation) signal(sig syscall.Signal) { _ = unix.Kill(g.pid, sig) }

// kill ends the program and what it has started.
func (g *generation) kill(sig syscall.Signal) { _ = unix.Kill(-g.pid, sig) }

// answer tells those who asked for this generation.
func (g *generation) answer(failure error) {
	for _, tell := range g.askers {
		tell(failure)
	}
	g.askers = nil
}

// why says why a generation that has ended did, and what it said last.
func (g *generation) why(end unix.WaitStatus) string {
	why := describe(end)
	if g.verdict != "" {
		why = g.verdict
	} else if g.state == Starting && end.Exited() && end.ExitStatus() == 0 {
		why += ", it must stay in the foreground"
	}
	if line := g.relay.lastLine(); line != "" {
		why += ": " + line
	}
	return why
}

// describe says how a process ended.
func describe(end unix.WaitStatus) string {
	if !end.Signaled() {
		return fmt.Sprintf("exit status %d", end.ExitStatus())
	}
	text := "killed by " + unix.SignalName(end.Signal())
	if end.CoreDump() {
		text += " (core dumped)"
	}
	return text
}

// code is the exit status of a process as a shell tells it.
func code(end unix.WaitStatus) int {
	if end.Signaled() {
		return 128 + int(end.Signal())
	}
	return end.ExitStatus()
}
