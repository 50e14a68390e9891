package address

import "testing"

func TestParse(t *testing.T) {
	for _, c := range []struct {
		given string
		want  Address
	}{
		{"tcp://127.0.0.1:80", Address{"", "tcp", "127.0.0.1:80"}},
		{"tcp:127.0.0.1:80", Address{"", "tcp", "127.0.0.1:80"}},
		{"tcp6://[::1]:0", Address{"", "tcp6", "[::1]:0"}},
		{"web=udp://:53", Address{"web", "udp", ":53"}},
		{"8080", Address{"", "tcp", ":8080"}},
		{":8080", Address{"", "tcp", ":8080"}},
		{"localhost:8080", Address{"", "tcp", "localhost:8080"}},
		{"a.b-c_9=/run/x=y", Address{"a.b-c_9", "unix", "/run/x=y"}},
		{"unix:x.sock", Address{"", "unix", "x.sock"}},
		{"unix:///run/x", Address{"", "unix", "/run/x"}},
		{"unix:/a=b", Address{"", "unix", "/a=b"}},
		{"@abstract", Address{"", "unix", "@abstract"}},
		{"unixpacket:@abstract", Address{"", "unixpacket", "@abstract"}},
		{"log=unixgram:/dev/log", Address{"log", "unixgram", "/dev/log"}},
		{"fd:3", Address{"", "fd", "3"}},
	} {
		got, err := Parse(c.given)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.given, got, err, c.want)
		}
		if again, err := Parse(got.String()); err != nil || again.String() != got.String() || again.Where != got.Where {
			t.Errorf("%s: written as %s, and that is %+v, %v", c.given, got, again, err)
		}
	}
	for _, bad := range []string{"", "foo", "tcp://", "tcp://host", "tcp://host:http", "tcp://host:65536", "65536", "unix:", "unix://x",
		"unix:@", "unix:a\x00b", "fd:", "fd:-1", "fd:x", "fd://3", "a:b=tcp://:1", "x="} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}
