//go:build unix && !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package scm

func isTerminal(int) bool { return false }
