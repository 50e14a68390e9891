//go:build unix

package credentials

import "os"

// A Sender is who wrote a message: the pid and the real ids that the kernel stamped on it. The stamp
// is as good as the sender is unprivileged: see [Exchange] for its limit.
type Sender struct {
	Cred

	// Process pins the writer, by the SCM_PIDFD that came with the message (Linux 6.5); nil if there
	// was none, because the kernel is older or this process is at its descriptor limit. It is the
	// Sender's: Close closes it.
	Process *Process
}

// NewSender makes a Sender of the stamp of a message and the pidfd that came with it, which may be
// nil and is taken over. For a stamp that names nobody it closes the pidfd and returns nil.
func NewSender(stamp Cred, pidfd *os.File) *Sender {
	if !stamp.Known() {
		if pidfd != nil {
			_ = pidfd.Close()
		}
		return nil
	}
	s := &Sender{Cred: stamp}
	if pidfd != nil {
		s.Process = newProcess(pidfd, stamp.PID)
	}
	return s
}

// Close closes Process. It works twice, and on nil.
func (s *Sender) Close() error {
	if s == nil {
		return nil
	}
	return s.Process.Close()
}
