//go:build unix && !linux

package sysfd

func closeRun(first, n int) { closeEach(first, n) }

func closesAtOnce(int) bool { return false }
