package execstub

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Path is this program, also when its file was replaced or removed.
const Path = "/proc/self/exe"

const (
	exitRefused   = 126
	exitCannotRun = 127
)

// run does not return.
func run(report, path string, args []string) {
	fd, err := strconv.Atoi(report)
	if err != nil || secure() {
		os.Exit(exitRefused)
	}
	syscall.CloseOnExec(fd)
	env := append(syscall.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	if id := pidfdID(); id != 0 {
		env = append(env, "LISTEN_PIDFDID="+strconv.FormatUint(id, 10))
	}
	err = syscall.Exec(path, args, env)
	if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // it is what execve(2) returned
		_, _ = syscall.Write(fd, []byte(strconv.Itoa(int(errno))))
	}
	os.Exit(exitCannotRun)
}

// secure reports whether this program has got privileges by its file, set-user-ID or capabilities: then
// it must not execute what the caller likes. If the kernel does not say, it has.
func secure() bool {
	const atSecure = 23 // AT_SECURE of getauxval(3)
	auxv, _ := unix.Auxv()
	for _, v := range auxv {
		if v[0] == atSecure {
			return v[1] != 0
		}
	}
	return true
}

// pidfdID returns the number of this process that is never used again, 0 if the kernel has none (before
// Linux 6.9).
func pidfdID() uint64 {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return 0
	}
	defer func() { _ = unix.Close(fd) }()
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(fd, &fs) != nil || int64(fs.Type) != unix.PID_FS_MAGIC || unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}
