//go:build unix && (fdkit_other || !(dragonfly || freebsd || linux || netbsd || openbsd))

package scm

// No flag for either. Go's runtime ignores SIGPIPE on other descriptors than 1 and 2.
const (
	messageCloexec  = 0
	messageNoSignal = 0
)
