package main

import "errors"

// errEnded: the service has no process any more.
var errEnded = errors.New("all its processes have ended")
