//go:build unix && !linux

package handoff

import (
	"os/exec"

	"github.com/fdkit/fdkit/credentials"
)

func (*Service) startSibling(*exec.Cmd) (*credentials.Process, bool, error) { return nil, false, nil }
