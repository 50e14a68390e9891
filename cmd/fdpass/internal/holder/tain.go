package holder

import (
	"encoding/binary"
	"time"
)

// A Tain is a moment in the format of TAI64N, https://cr.yp.to/libtai/tai64.html: 2^62 + the seconds of
// International Atomic Time since 1970, which is ahead of Unix time by 10 seconds and the leap seconds
// since 1972. There were 27 until 2017 and none since; every moment here is later.
type Tain struct {
	Sec  uint64
	Nano uint32
}

const (
	tainSize  = 12
	tainEpoch = 1<<62 + 37

	// never is what s6 adds to the present for a descriptor that does not expire.
	never = 1 << 61
	// soon bounds what is a date: anything later is never.
	soon = 1 << 40
)

// TainOf returns t as a Tain.
func TainOf(t time.Time) Tain {
	return Tain{uint64(tainEpoch + t.Unix()), uint32(t.Nanosecond())}
}

// Never returns the moment at which what is stored now, not to expire, expires.
func Never(now time.Time) Tain {
	t := TainOf(now)
	t.Sec += never
	return t
}

// Time returns the moment, and false if it is never.
func (t Tain) Time() (time.Time, bool) {
	if t.Sec >= tainEpoch+soon {
		return time.Time{}, false
	}
	return time.Unix(int64(t.Sec-tainEpoch), int64(t.Nano)), true // before 1970 it wraps, as intended
}

// Before reports whether t is earlier than u.
func (t Tain) Before(u Tain) bool { return t.Sec < u.Sec || t.Sec == u.Sec && t.Nano < u.Nano }

func appendTain(b []byte, t Tain) []byte {
	b = binary.BigEndian.AppendUint64(b, t.Sec)
	return binary.BigEndian.AppendUint32(b, t.Nano)
}

// parseTain reads the first tainSize bytes of b.
func parseTain(b []byte) Tain {
	return Tain{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}
}
