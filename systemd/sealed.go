//go:build unix

package systemd

import (
	"io"
	"os"
	"syscall"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/sysfd"
)

// Sealed makes a file in memory with content that nobody can change any more, memfd_create(2), and gives it
// to the caller: state that is to survive the process goes into one, and with [Store] to the manager. On
// systems other than Linux it is errors.ErrUnsupported.
//
// To replace a state, store the new one under another name and then [Remove] the old name: a process that
// dies between the two leaves both, one that removed first would leave none.
func Sealed(name string, content []byte) (*os.File, error) {
	f, err := createMemFD(name)
	if err != nil {
		return nil, errors.WithMessagef(err, "systemd: make a sealed file %q", name)
	}
	if _, err = f.Write(content); err == nil {
		err = sysfd.Control(f, seal)
	}
	if err != nil {
		_ = f.Close()
		return nil, errors.WithMessagef(err, "systemd: make a sealed file %q", name)
	}
	return f, nil
}

// ReadSealed returns the content of a file that [Sealed] has made. It borrows c, a [File] for one, and does
// not depend on its offset. EINVAL is a file that somebody could still change, or is none; EFBIG one of more than
// limit bytes.
func ReadSealed(c syscall.Conn, limit int) ([]byte, error) {
	content, err := sysfd.Ask(c, func(fd int) ([]byte, error) {
		if !sealed(fd) {
			return nil, errors.WithMessage(unix.EINVAL, "it is not sealed")
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, os.NewSyscallError("fstat", err)
		}
		if st.Size > int64(limit) {
			return nil, errors.WithMessagef(unix.EFBIG, "%d bytes, %d are the limit", st.Size, limit)
		}
		content := make([]byte, st.Size)
		_, err := io.ReadFull(io.NewSectionReader(readerAt(fd), 0, st.Size), content)
		return content, err
	})
	return content, errors.WithMessage(err, "systemd: read a sealed file")
}

// readerAt is pread(2) on a lent number.
type readerAt int

func (fd readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(fd), p, off)
	switch {
	case err != nil:
		return 0, os.NewSyscallError("pread", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}
