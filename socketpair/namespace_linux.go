package socketpair

import "golang.org/x/sys/unix"

var systemNamespaces = map[int]string{
	unix.AF_NETLINK:   "AF_NETLINK",
	unix.AF_PACKET:    "AF_PACKET",
	unix.AF_BLUETOOTH: "AF_BLUETOOTH",
	unix.AF_ALG:       "AF_ALG",
	unix.AF_VSOCK:     "AF_VSOCK",
	unix.AF_TIPC:      "AF_TIPC",
	unix.AF_XDP:       "AF_XDP",
}
