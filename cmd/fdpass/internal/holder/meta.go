//go:build unix

package holder

import (
	"encoding/binary"
	"fmt"

	"github.com/pkg/errors"
)

// What goes with descriptors to the next generation of a holder, pure.

const metaVersion = 1

// itemName is what a descriptor is called on its way. Its own name is in the metadata: the service has
// names of its own.
func itemName(id uint64) string { return fmt.Sprintf("held %016x", id) }

func appendMeta(b []byte, e *entry) []byte {
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint64(b, e.id)
	b = binary.BigEndian.AppendUint32(b, e.owner)
	return appendEntry(b, e.Entry)
}

// parseMeta is the inverse of appendMeta, but for the descriptor.
func parseMeta(b []byte) (*entry, error) {
	if len(b) < 1 || b[0] != metaVersion {
		return nil, errors.New("the holder that serves is of a version that this one does not understand")
	}
	if len(b) < 13 {
		return nil, errMalformed
	}
	entries, err := parseEntries(b[13:], 1)
	if err != nil {
		return nil, err
	}
	return &entry{Entry: entries[0], id: binary.BigEndian.Uint64(b[1:]), owner: binary.BigEndian.Uint32(b[9:]), fd: -1}, nil
}

// appendIDs makes the state that goes with the commit: what of all that was offered is still there.
func appendIDs(b []byte, ids []uint64) []byte {
	b = append(b, metaVersion)
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return b
}

// parseIDs is the inverse of appendIDs.
func parseIDs(b []byte) ([]uint64, error) {
	if len(b)%8 != 1 || b[0] != metaVersion {
		return nil, errMalformed
	}
	var ids []uint64
	for b = b[1:]; len(b) > 0; b = b[8:] {
		ids = append(ids, binary.BigEndian.Uint64(b))
	}
	return ids, nil
}
