//go:build unix && !linux

package credentials

// isMapped reports whether the id is a user: this system has no user namespaces.
func isMapped(id uint32) bool { return id != noID }

func isMappedGroup(id uint32) bool { return id != noID }
