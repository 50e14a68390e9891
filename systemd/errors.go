package systemd

import "errors"

// ErrEnvironment: a variable that the service manager sets has a value that it never has. The error says
// which one.
var ErrEnvironment = errors.New("systemd: malformed environment")
