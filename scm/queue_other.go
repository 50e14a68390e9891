//go:build unix && !linux

package scm

// ioctlQueued asks how many bytes wait to be read: FIONREAD, which x/sys does not have everywhere.
const ioctlQueued = 0x4004667f
