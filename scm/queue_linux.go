package scm

import "golang.org/x/sys/unix"

// ioctlQueued asks how many bytes wait to be read.
const ioctlQueued = unix.SIOCINQ
