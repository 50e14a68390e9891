//go:build linux

package main

import (
	bigendian "encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fdkit/fdkit/internal/testutil"
)

// Programs as they are on other people's machines. None of them knows of fdpass.

const nodeServer = `const http = require('http')
const server = http.createServer((request, response) => response.end(String(process.pid)))
server.listen({fd: 3})
process.on('SIGTERM', () => server.close())
`

const wsgi = `import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
`

// python3 -m http.server opens its own socket; this is the least that makes it take another one.
const pythonServer = `import http.server, os, signal, socket, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
server.daemon_threads = False
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.05)
server.server_close()
`

// inetd's wait: accept on standard input, serve, and end when nobody came for a while. It was never told of a
// supervisor.
const inetdServer = `import os, socket
listener = socket.socket(fileno=0)
while True:
    c, _ = listener.accept()
    c.recv(10000)
    c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + str(os.getpid()).encode())
    c.close()
`

const nginxConfig = `daemon off;
worker_processes 2;
pid %[1]s/nginx.pid;
error_log stderr warn;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server { listen %[2]s; location / { return 200 "$pid"; } }
}
`

const fpmConfig = `[global]
error_log = /dev/stderr
daemonize = no
[www]
listen = %s
pm = static
pm.max_children = 2
`

const pumaConfig = `bind 'tcp://%s'
workers 0
threads 1, 2
app { |env| [200, {}, [Process.pid.to_s]] }
`

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// php is php-fpm, whose name has a version.
func php(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/sbin/php-fpm[0-9]*")
	if len(found) > 0 {
		return found[0]
	}
	return testutil.NeedProgram(t, "php-fpm")
}

// debianPython is the system's python3, which every user can execute.
func debianPython(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		return "/usr/bin/python3"
	}
	return testutil.NeedProgram(t, "python3")
}

// Each serves, is restarted, and serves again from another process; when it ends, so does fdpass.
func TestForeign(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		flags   []string
		command func(t *testing.T, dir, addr string) []string
		code    int // that it ends with at its stop signal
	}{
		{"node", nil, func(t *testing.T, dir, _ string) []string {
			return []string{testutil.NeedProgram(t, "node"), write(t, dir+"/server.js", nodeServer)}
		}, 0},
		{"python", nil, func(t *testing.T, dir, _ string) []string {
			return []string{debianPython(t), write(t, dir+"/server.py", pythonServer), "3"}
		}, 0},
		{"inetd wait", []string{"--as", "fd0"}, func(t *testing.T, dir, _ string) []string {
			return []string{debianPython(t), write(t, dir+"/inetd.py", inetdServer)}
		}, 143},
		{"gunicorn", []string{"--ready", "notify"}, func(t *testing.T, dir, _ string) []string {
			write(t, dir+"/hello.py", wsgi)
			return []string{testutil.NeedProgram(t, "gunicorn"), "--workers", "2", "hello:app"}
		}, 0},
		{"gunicorn, its own way", []string{"--as", "gunicorn", "--ready", "notify"}, func(t *testing.T, dir, _ string) []string {
			write(t, dir+"/hello.py", wsgi)
			return []string{testutil.NeedProgram(t, "gunicorn"), "--workers", "1", "hello:app"}
		}, 0},
		{"nginx", []string{"--as", "nginx"}, func(t *testing.T, dir, addr string) []string {
			return []string{testutil.NeedProgram(t, "nginx"), "-p", dir, "-c", write(t, dir+"/nginx.conf", fmt.Sprintf(nginxConfig, dir, addr))}
		}, 0},
		{"php-fpm", []string{"--as", "fpm"}, func(t *testing.T, dir, addr string) []string {
			command := []string{php(t), "--fpm-config", write(t, dir+"/fpm.conf", fmt.Sprintf(fpmConfig, addr))}
			if os.Geteuid() == 0 {
				write(t, dir+"/fpm.conf", fmt.Sprintf(fpmConfig, addr)+"user = root\n")
				command = append(command, "--allow-to-run-as-root")
			}
			write(t, dir+"/pid.php", "<?php echo getmypid();")
			return command
		}, 0},
		{"puma", []string{"--as", "puma"}, func(t *testing.T, dir, addr string) []string {
			return []string{testutil.NeedProgram(t, "puma"), "-C", write(t, dir+"/puma.rb", fmt.Sprintf(pumaConfig, addr))}
		}, 143},
		{"puma, as systemd", nil, func(t *testing.T, dir, addr string) []string {
			return []string{testutil.NeedProgram(t, "puma"), "-C", write(t, dir+"/puma.rb", fmt.Sprintf(pumaConfig, addr))}
		}, 143},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := testutil.ShortDir(t)
			addr := testutil.FreeAddress(t)
			command := c.command(t, dir, addr)
			s := newService(t, joined(append([]string{"-l", addr, "--chdir", dir, "--ready", "0.2"}, c.flags...), "--", command)...)
			s.start()
			ask := s.get
			if c.name == "php-fpm" {
				ask = func(string) (string, error) { return fastCGI(addr, dir+"/pid.php") }
			}
			s.await("1 live")
			before, err := ask("/")
			if err != nil {
				t.Fatal(err)
			}
			if out, code := s.fdpass("restart"); code != 0 {
				t.Fatal(out)
			}
			s.await("2 live")
			after, err := ask("/")
			if err != nil {
				t.Fatal(err)
			}
			for _, answer := range []string{before, after} {
				if _, err := strconv.Atoi(answer); err != nil {
					t.Errorf("answered %q", answer)
				}
			}
			if before == after {
				t.Errorf("both generations answer as %s", before)
			}
			s.signal(unix.SIGTERM)
			if code := s.end(); code != c.code {
				t.Errorf("ends with %d, want %d", code, c.code)
			}
		})
	}
}

func joined(a []string, b string, c []string) []string { return append(append(a, b), c...) }

// The workers of a master that was killed would go on accepting. They are told to stop, and a new generation
// takes their place.
func TestMasterDies(t *testing.T) {
	t.Parallel()
	dir, addr := testutil.ShortDir(t), testutil.FreeAddress(t)
	config := write(t, dir+"/nginx.conf", fmt.Sprintf(nginxConfig, dir, addr))
	s := newService(t, "-l", addr, "--as", "nginx", "--ready", "0.2", "--", testutil.NeedProgram(t, "nginx"), "-p", dir, "-c", config)
	s.start()
	s.await("1 live")
	answer, err := s.get("/")
	if err != nil {
		t.Fatal(err)
	}
	var workers []int
	s.until("nginx has two workers", func() bool { // one may answer before there is the other
		workers = childrenOf(s.pid(1))
		return len(workers) == 2
	})
	if err := unix.Kill(s.pid(1), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.await("2 live")
	s.until("the old workers are gone", func() bool { return gone(workers[0]) && gone(workers[1]) })
	if now, err := s.get("/"); err != nil || now == answer {
		t.Errorf("%s answers, %v", now, err)
	}
}

// fastCGI asks php-fpm for a script: FastCGI 1.0, one request on one connection.
func fastCGI(addr, script string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	record := func(kind byte, content string) string {
		return string([]byte{1, kind, 0, 1, byte(len(content) >> 8), byte(len(content)), 0, 0}) + content
	}
	parameters := ""
	for _, p := range [][2]string{{"SCRIPT_FILENAME", script}, {"REQUEST_METHOD", "GET"}} {
		parameters += string([]byte{byte(len(p[0])), byte(len(p[1]))}) + p[0] + p[1]
	}
	request := record(1, "\x00\x01\x00\x00\x00\x00\x00\x00") + record(4, parameters) + record(4, "") + record(5, "")
	if _, err := io.WriteString(c, request); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		var head [8]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return "", err
		}
		content := make([]byte, int(bigendian.BigEndian.Uint16(head[4:]))+int(head[6]))
		if _, err := io.ReadFull(c, content); err != nil {
			return "", err
		}
		switch head[1] {
		case 6:
			out.Write(content[:len(content)-int(head[6])])
		case 3:
			_, body, _ := strings.Cut(out.String(), "\r\n\r\n")
			return strings.TrimSpace(body), nil
		}
	}
}

// Fifty restarts under load: clients make a new connection for each request, and one that is refused, reset or not
// answered is lost.
func TestFiftyRestarts(t *testing.T) {
	t.Parallel()
	restarts := 50
	switch {
	case testing.Short():
		restarts = 5
	case testutil.Race: // which makes fdpass slow, and clients wait: fifty without it are enough
		restarts = 15
	}
	for _, c := range []struct {
		name    string
		flags   []string
		command func(t *testing.T, dir string) []string
	}{
		// Node does not say when it is ready. Where it takes longer than this, clients wait, and are not lost.
		{"node", []string{"--ready", "0.4"}, func(t *testing.T, dir string) []string {
			return []string{testutil.NeedProgram(t, "node"), write(t, dir+"/server.js", nodeServer)}
		}},
		{"gunicorn", []string{"--ready", "notify"}, func(t *testing.T, dir string) []string {
			write(t, dir+"/hello.py", wsgi)
			testutil.NeedProgram(t, "gunicorn")
			return []string{debianPython(t), "-m", "gunicorn", "--workers", "2", "--log-level", "error", "hello:app"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := testutil.ShortDir(t)
			s := newService(t, joined(append([]string{"-l", "127.0.0.1:0", "--chdir", dir, "--drain", "1m"}, c.flags...), "--", c.command(t, dir))...)
			s.start()
			s.await("1 live")
			begin := time.Now()
			var stop atomic.Bool
			var answered, lost atomic.Int64
			var slowest atomic.Int64
			var pids sync.Map
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for !stop.Load() {
						start := time.Now()
						pid, err := s.get("/")
						if err != nil {
							if lost.Add(1) < 10 {
								t.Errorf("after %v: %v", time.Since(begin), err)
							}
							continue
						}
						answered.Add(1)
						pids.Store(pid, true)
						slowest.Store(max(slowest.Load(), int64(time.Since(start))))
						time.Sleep(5 * time.Millisecond) // other tests want to run as well
					}
				})
			}
			for i := range restarts {
				if out, code := s.fdpass("restart"); code != 0 {
					t.Errorf("restart %d: %s", i, out)
				}
				// Live is not yet serving, by a time: if no generation got that far, clients would wait until the last.
				enough := answered.Load() + 4
				s.until("clients are answered", func() bool { return answered.Load() > enough || lost.Load() > 0 })
			}
			s.await(fmt.Sprintf("%d live", restarts+1))
			if _, err := s.get("/"); err != nil { // who is live by its time may not know what SIGTERM is yet
				t.Error(err)
			}
			stop.Store(true)
			clients.Wait()
			took := time.Since(begin)
			generations := 0
			pids.Range(func(any, any) bool { generations++; return true })
			t.Logf("%d restarts in %v: %d requests answered (%.0f/s) by %d processes, %d lost, slowest %v", restarts, took.Round(time.Millisecond),
				answered.Load(), float64(answered.Load())/took.Seconds(), generations, lost.Load(), time.Duration(slowest.Load()).Round(time.Millisecond))
			if answered.Load() < int64(restarts) || generations < restarts/4 {
				t.Error("too few requests or processes to mean anything")
			}
			s.signal(unix.SIGTERM)
			if code := s.end(); code != 0 {
				t.Errorf("ends with %d", code)
			}
			if said := regexp.MustCompile(`(?m)^fdpass: .*`).FindString(s.says.text()); said != "" {
				t.Errorf("says %s", said)
			}
		})
	}
}
