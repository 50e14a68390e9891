//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

// What a program inherits, in each way, through exec and as a child of serve.
func TestInherit(t *testing.T) {
	t.Parallel()
	dir := testutil.ShortDir(t)
	path := filepath.Join(dir, "s")
	_, ignoredHere, err := signalMasks()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		as       string
		flags    []string
		first    int
		nonblock bool
		want     map[string]string // in the environment; PID, PPID, TCP, PATH stand for these
	}{
		{"systemd", nil, 3, false, map[string]string{"LISTEN_FDS": "2", "LISTEN_PID": "PID", "LISTEN_FDNAMES": "web:unknown"}},
		{"systemd", []string{"--no-pid"}, 3, false, map[string]string{"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:unknown"}},
		{"systemd", []string{"--nonblock"}, 3, true, map[string]string{"LISTEN_FDS": "2", "LISTEN_PID": "PID", "LISTEN_FDNAMES": "web:unknown"}},
		{"nginx", nil, 3, true, map[string]string{"NGINX": "3;4;"}},
		{"nginx", []string{"--nonblock=false"}, 3, false, map[string]string{"NGINX": "3;4;"}},
		{"unicorn", nil, 3, false, map[string]string{"UNICORN_FD": "3,4"}},
		{"puma", nil, 3, false, map[string]string{"PUMA_INHERIT_0": "3:tcp://TCP", "PUMA_INHERIT_1": "4:unix://PATH"}},
		{"gunicorn", nil, 3, false, map[string]string{"GUNICORN_FD": "3,4", "GUNICORN_PID": "PPID"}},
		{"fpm", nil, 3, false, map[string]string{"FPM_SOCKETS": "TCP=3,PATH=4"}},
		{"starter", nil, 3, false, map[string]string{"SERVER_STARTER_PORT": "TCP=3;PATH=4", "SERVER_STARTER_GENERATION": "1"}},
		{"fd0", nil, 0, false, map[string]string{}},
	} {
		for _, command := range []string{"exec", "serve"} {
			name := strings.Join(append([]string{command, c.as}, c.flags...), " ")
			t.Run(name, func(t *testing.T) {
				helper := look.Command(t)
				args := append([]string{command, "--as", c.as, "--chdir", dir, "-l", "web=127.0.0.1:0"}, c.flags...)
				if c.as != "fd0" {
					args = append(args, "-l", path)
				}
				if command == "serve" {
					args = append(args, "--control", "none", "--ready", "1h")
				}
				cmd := exec.Command(binary(t), append(append(args, "--"), helper.Args...)...)
				// What our own manager said is not for the program, and of our descriptors it gets none.
				stale := map[string]string{"LISTEN_FDS": "7", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a", "LISTEN_PIDFDID": "1", "NGINX": "9;", "PUMA_INHERIT_7": "x",
					"FPM_SOCKETS": "x", "UNICORN_FD": "9", "GUNICORN_FD": "9", "GUNICORN_PID": "1", "SERVER_STARTER_PORT": "x", "SERVER_STARTER_GENERATION": "8"}
				cmd.Env = helper.Env
				for k, v := range stale {
					cmd.Env = append(cmd.Env, k+"="+v)
				}
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				defer w.Close()
				cmd.ExtraFiles = []*os.File{r, nil, w}
				var said strings.Builder
				cmd.Stderr = &said
				out, err := cmd.Output()
				if command == "exec" && err != nil {
					t.Fatalf("%v: %s", err, said.String())
				}
				var in inherited
				if err := json.Unmarshal(out, &in); err != nil {
					t.Fatalf("%v in %q; %s", err, out, said.String())
				}
				pid := cmd.Process.Pid
				if command == "exec" && in.PID != pid || command == "serve" && in.Parent != pid {
					t.Errorf("pid %d, parent %d; fdpass was %d", in.PID, in.Parent, pid)
				}
				if in.Dir != dir {
					t.Errorf("in %s", in.Dir)
				}
				ignored := "0000000000000000" // serve hears them itself
				if command == "exec" {
					ignored = ignoredHere // by nohup(1), say
				}
				if in.Blocked != "0000000000000000" || in.Ignored != ignored {
					t.Errorf("signals %s are blocked, %s ignored, not %s", in.Blocked, in.Ignored, ignored)
				}
				tcp := in.FDs[c.first].Address
				fds := map[int]inheritedFD{c.first: {tcp, c.nonblock}}
				if c.as != "fd0" {
					fds[c.first+1] = inheritedFD{path, c.nonblock}
				}
				if !maps.Equal(in.FDs, fds) || !strings.HasPrefix(tcp, "127.0.0.1:") {
					t.Errorf("sockets %v, want %v", in.FDs, fds)
				}
				for fd, link := range in.Links {
					if fd > 2 && strings.HasPrefix(link, "pipe:") && link == pipeName(t, r) {
						t.Errorf("descriptor %d is %s, of fdpass's caller", fd, link)
					}
				}
				with := strings.NewReplacer("PPID", fmt.Sprint(in.Parent), "PID", fmt.Sprint(in.PID), "TCP", tcp, "PATH", path)
				for _, k := range slices.Concat(slices.Collect(maps.Keys(stale)), slices.Collect(maps.Keys(c.want))) {
					want, wanted := c.want[k]
					if want = with.Replace(want); in.Environment[k] != want || wanted != hasKey(in.Environment, k) {
						t.Errorf("%s=%q, want %q", k, in.Environment[k], want)
					}
				}
				_ = os.Remove(path) // exec leaves it
			})
		}
	}
}

func hasKey(m map[string]string, k string) bool {
	_, ok := m[k]
	return ok
}

func pipeName(t *testing.T, f *os.File) string {
	t.Helper()
	var st unix.Stat_t
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = unix.Fstat(int(fd), &st) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("pipe:[%d]", st.Ino)
}

// An inherited socket is passed on as it is, also when it sits on the number of another one.
func TestInheritNumbers(t *testing.T) {
	t.Parallel()
	helper := look.Command(t)
	cmd := exec.Command(binary(t), append([]string{"exec", "-l", "fd:4", "-l", "fd:3", "--"}, helper.Args...)...)
	cmd.Env = helper.Env
	var names []string
	for range 2 {
		path := filepath.Join(testutil.ShortDir(t), "s")
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		names = append(names, path)
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var in inherited
	if err := json.Unmarshal(out, &in); err != nil {
		t.Fatal(err)
	}
	if in.FDs[3].Address != names[1] || in.FDs[4].Address != names[0] || len(in.FDs) != 2 || in.Environment["LISTEN_FDS"] != "2" {
		t.Errorf("%v, want %v exchanged", in.FDs, names)
	}
	if in.Environment["LISTEN_FDNAMES"] != "" {
		t.Error("names, and nobody gave any")
	}
}
