//go:build unix && !linux

package scm

const openPath = 0

func inspectSystem(int, *Info) {}

func inspectSystemSocket(int, *SocketInfo) {}
