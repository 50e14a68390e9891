//go:build unix && !linux

package socketpair

var systemNamespaces map[int]string
