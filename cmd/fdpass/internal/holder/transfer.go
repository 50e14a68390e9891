//go:build unix

package holder

import (
	"context"
	"slices"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Transfer moves what has one of the names, or everything if there are none, from one holder to
// another, and returns the names that have moved.
//
// It is a transaction: nothing is taken from the source before the destination has all of it, and if the
// destination refuses one, what it got is deleted there. A failure while the source is being emptied
// leaves the rest in both.
//
// Expiries move too if the source gives dumps to this user. If not, warn is told, and what has moved does
// not expire.
func Transfer(ctx context.Context, from, to string, names []string, warn func(error)) (moved []string, err error) {
	source, err := Dial(ctx, from)
	if err != nil {
		return nil, err
	}
	defer func() { _ = source.Close() }()
	destination, err := Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	defer destination.Close()
	all, err := source.Dump()
	if err != nil {
		// One that closes the connection at a dump gives single ones on another.
		warn(errors.WithMessage(err, "expiries do not move"))
		_ = source.Close()
		if source, err = Dial(ctx, from); err != nil {
			return nil, err
		}
		if all, err = source.oneByOne(names); err != nil {
			return nil, err
		}
	}
	defer func() { closeDump(all) }()
	if all, err = choose(all, names); err != nil {
		return nil, err
	}
	for i, d := range all {
		if err := destination.Store(d.Name, d.Expiry, d.FD); err != nil {
			return nil, rollBack(destination, all[:i], errors.WithMessagef(err, "%s, so nothing was moved", to))
		}
	}
	for _, d := range all {
		if err := source.take(d); err != nil {
			return moved, errors.WithMessagef(err, "%d of %d have moved, the rest is in both holders: %s", len(moved), len(all), from)
		}
		moved = append(moved, d.Name)
	}
	return moved, nil
}

// choose returns what has one of the names, all of which must be there, and closes the others. No names
// are all.
func choose(all []Dumped, names []string) ([]Dumped, error) {
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(d Dumped) bool { return d.Name == name }) {
			return all, &StatusError{"retrieve", name, unix.ENOENT}
		}
	}
	return slices.DeleteFunc(all, func(d Dumped) bool {
		other := !slices.Contains(names, d.Name)
		if other {
			_ = d.FD.Close()
		}
		return other
	}), nil
}

// rollBack deletes at the destination what it got, and returns err.
func rollBack(destination *Client, stored []Dumped, err error) error {
	for _, d := range stored {
		if derr := destination.Delete(d.Name); derr != nil {
			return errors.WithMessagef(err, "%q stays there too, as it cannot be deleted (%v)", d.Name, derr)
		}
	}
	return err
}

// oneByOne retrieves what has one of the names, or everything if there are none.
func (c *Client) oneByOne(names []string) (all []Dumped, err error) {
	if len(names) == 0 {
		if names, err = c.List(); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		fd, err := c.Retrieve(name, false)
		if err != nil {
			closeDump(all)
			return nil, err
		}
		all = append(all, Dumped{Entry{name, Tain{Sec: tainEpoch + never}}, fd})
	}
	return all, nil
}

// take removes from the holder what was moved. If somebody has put another descriptor there meanwhile,
// that stays.
func (c *Client) take(d Dumped) error {
	fd, err := c.Retrieve(d.Name, true)
	var refused *StatusError
	if errors.As(err, &refused) && refused.Errno == unix.ENOENT {
		return nil // expired, or deleted
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	if sameFile(int(fd), int(d.FD)) {
		return nil
	}
	return c.Store(d.Name, d.Expiry, fd)
}

func sameFile(a, b int) bool {
	var sa, sb unix.Stat_t
	if unix.Fstat(a, &sa) != nil || unix.Fstat(b, &sb) != nil {
		return false
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino
}
