//go:build unix

package systemd

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/execstub"
	"github.com/fdkit/fdkit/internal/sysfd"
)

// A Named is a descriptor for a child: a listener, a connection, a file, with the name by which the child
// tells it from the others.
type Named struct {
	Name string // up to 255 printable ASCII characters, no colon
	Conn syscall.Conn
}

// Start starts cmd, as cmd.Start does, and gives it descriptors as a service manager would: numbers from 3 on
// in their order, LISTEN_FDS, LISTEN_FDNAMES, and a LISTEN_PID that is the child's. The child may be any
// program that knows sd_listen_fds(3). cmd.ExtraFiles come behind them. Variables of that kind which were
// meant for this process do not reach the child, also if there are no descriptors.
//
// The descriptors are borrowed, and nobody's socket turns blocking, as it would by cmd.ExtraFiles. Their
// mode goes along: a listener of package net is nonblocking, which a program that does not expect it may
// take badly; open one for such a program in blocking mode.
//
// The child's pid is not known before it runs, and a Go program cannot set a variable between fork and
// execve. So the child first executes this program again, /proc/self/exe, in which the init function of
// a package that this one imports sets the variable and executes cmd's program: the same process, a few
// milliseconds later. Init functions of other packages may run before it; main does not. It needs /proc, also
// under SysProcAttr.Chroot, and this program without set-user-ID or file capabilities, and executable for the user
// of SysProcAttr.Credential. A shell could do it too, but is not everywhere.
//
// Start returns when cmd's program runs, or the context of exec.CommandContext has killed it. That the
// program cannot be executed is an error here, with the errno. Errors are otherwise those of cmd.Start; EINVAL
// for a name that is none; EMFILE; errors.ErrUnsupported on systems other than Linux. After an error
// nothing runs.
func Start(cmd *exec.Cmd, descriptors ...Named) error {
	return errors.WithMessagef(start(cmd, descriptors), "systemd: start %s", cmd.Path)
}

func start(cmd *exec.Cmd, descriptors []Named) error {
	env, path, args, extra := cmd.Env, cmd.Path, cmd.Args, cmd.ExtraFiles
	defer func() { cmd.Env, cmd.Path, cmd.Args, cmd.ExtraFiles = env, path, args, extra }()
	cmd.Env = withoutListen(cmd.Environ())
	if len(descriptors) == 0 || cmd.Err != nil || path == "" {
		return cmd.Start()
	}
	if execstub.Path == "" {
		return sysfd.Unsupported(unix.ENOSYS)
	}
	var names []string
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for i, d := range descriptors {
		if err := checkName(d.Name); err != nil {
			return errors.WithMessagef(err, "%q", d.Name)
		}
		f, err := duplicate(d.Conn)
		if err != nil {
			return errors.WithMessagef(err, "descriptor %d, %q", i, d.Name)
		}
		names, files = append(names, d.Name), append(files, f)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	last := len(files)
	files = append(files, w)
	if len(args) == 0 {
		args = []string{path}
	}
	cmd.Env = append(cmd.Env, listenCount(names)...)
	cmd.Path = execstub.Path
	cmd.ExtraFiles = append(append(files[:last:last], extra...), w)
	cmd.Args = execstub.Args(firstFD+last+len(extra), path, args)
	if err := cmd.Start(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = errors.WithMessagef(err, "%s is needed for it", execstub.Path)
		}
		return err
	}
	_ = w.Close() // only the child has it now, until it executes the program
	report, err := io.ReadAll(io.LimitReader(r, 20))
	if len(report) == 0 && err == nil {
		return nil
	}
	_ = cmd.Process.Kill() // it has ended, or nobody knows what it is
	_ = cmd.Wait()
	if errno, cerr := strconv.Atoi(string(report)); cerr == nil {
		return &os.PathError{Op: "exec", Path: path, Err: syscall.Errno(errno)}
	}
	return errors.WithMessagef(io.ErrUnexpectedEOF, "the child reported %q", report)
}

// duplicate gives the caller a file of c's for exec.Cmd. Its Fd, which package exec calls, leaves the mode
// as it is, because it was made of a number.
func duplicate(c syscall.Conn) (*os.File, error) {
	if c == nil {
		return nil, os.ErrInvalid
	}
	fd, err := sysfd.Ask(c, sysfd.Dup)
	if err == unix.EMFILE {
		return nil, errors.WithMessage(err, sysfd.Usage())
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "passed"), nil
}
