// Package cmsg builds and walks the control messages of sendmsg(2) and recvmsg(2), cmsg(3). It is
// pure: it makes no system call, keeps nothing and allocates nothing, so that it can be fuzzed
// without a socket.
//
// It trusts no length. The parsers of package syscall and x/sys read past a truncated message,
// panic on an odd length, and return nothing at all when the last of several messages is cut; the
// descriptors of the good ones then leak. Parse reports every descriptor that it can see, also in
// front of and inside a malformed tail, so that the caller can close it.
package cmsg
