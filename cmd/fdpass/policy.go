//go:build unix

package main

import (
	"fmt"
	"syscall"

	"github.com/pkg/errors"
	"github.com/spf13/cobra"

	"github.com/fdkit/fdkit/credentials"
)

// peerFlags say who may be at the other end.
type peerFlags struct {
	uid, gid []uint
	pid      int
	same     bool
}

func (p *peerFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.UintSliceVar(&p.uid, "peer-uid", nil, "the other end must have one of these user ids, `IDS` with commas")
	f.UintSliceVar(&p.gid, "peer-gid", nil, "the other end must be in one of these groups, `IDS` with commas")
	f.IntVar(&p.pid, "peer-pid", 0, "the other end must be the process `PID`")
	f.BoolVar(&p.same, "same-user", false, "the other end must have the user id of fdpass")
	for _, name := range []string{"peer-uid", "peer-gid", "peer-pid"} {
		f.Lookup(name).DefValue = "0" // none, for --help
		_ = c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

func (p *peerFlags) given() bool { return len(p.uid) > 0 || len(p.gid) > 0 || p.pid != 0 || p.same }

// policy returns what the ids must be, and false if anybody will do.
func (p *peerFlags) policy() (credentials.Policy, bool) {
	var all []credentials.Policy
	if p.same {
		all = append(all, credentials.SameUser())
	}
	if len(p.uid) > 0 {
		all = append(all, credentials.UID(ids(p.uid)...))
	}
	if len(p.gid) > 0 {
		all = append(all, credentials.GID(ids(p.gid)...))
	}
	return credentials.AllOf(all...), len(all) > 0
}

func ids(given []uint) []uint32 {
	ids := make([]uint32, len(given))
	for i, id := range given {
		ids[i] = uint32(min(id, 1<<32-1)) // which is nobody's
	}
	return ids
}

// check judges who connected c, or who listened.
func (p *peerFlags) check(c syscall.Conn) error {
	if p.pid != 0 {
		peer, err := credentials.Peer(c)
		if err != nil {
			return err
		}
		if err := p.checkPID(peer); err != nil {
			return err
		}
	}
	if policy, ok := p.policy(); ok {
		return policy.Check(c)
	}
	return nil
}

// checkSender judges who wrote a message.
func (p *peerFlags) checkSender(s *credentials.Sender) error {
	if !p.given() {
		return nil
	}
	if s == nil {
		return errors.WithMessage(credentials.ErrNoIdentity,
			"the message has no credentials: it was sent before recv was there; start recv first, or send with fdpass")
	}
	if p.pid != 0 {
		if err := p.checkPID(s.Cred); err != nil {
			return err
		}
	}
	if policy, ok := p.policy(); ok {
		return policy.CheckSender(s)
	}
	return nil
}

func (p *peerFlags) checkPID(peer credentials.Cred) error {
	if peer.PID == p.pid {
		return nil
	}
	return fmt.Errorf("%w: %v is not pid %d", credentials.ErrDenied, peer, p.pid)
}
