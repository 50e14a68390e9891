package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// A Report is a whole run.
type Report struct {
	When      time.Time         `json:"when"`
	Machine   string            `json:"machine"`
	Versions  map[string]string `json:"versions"`
	Rounds    int               `json:"rounds"`
	Slice     time.Duration     `json:"slice_ns"`
	LeftOut   []string          `json:"left_out,omitempty"`
	Results   []Result          `json:"results"`
	Transfers []Transfer        `json:"transfers,omitempty"`
	Restarts  []Restart         `json:"restarts,omitempty"`

	options *options
	begin   time.Time
}

func newReport(o *options) *Report {
	r := &Report{
		When: time.Now().UTC().Truncate(time.Second), Machine: machine(), Versions: versions(),
		Rounds: o.rounds, Slice: o.slice, options: o, begin: time.Now(),
	}
	return r
}

// leaveOut notes, once, what could not be measured and why.
func (r *Report) leaveOut(what string) {
	if !slices.Contains(r.LeftOut, what) {
		r.LeftOut = append(r.LeftOut, what)
	}
}

func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	model := "unknown processor"
	b, _ := os.ReadFile("/proc/cpuinfo")
	if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(b); m != nil {
		model = string(m[1])
	}
	return fmt.Sprintf("%s, %d processors, Linux %s", model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]))
}

func versions() map[string]string {
	all := map[string]string{
		"go": runtime.Version(), "cc": firstLine("cc", "--version"),
		"nginx": firstLine("nginx", "-v"), "haproxy": firstLine("haproxy", "-v"),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return all
	}
	for _, m := range info.Deps {
		if slices.Contains(measured, m.Path) {
			all[m.Path] = m.Version
		}
	}
	return all
}

// measured are the modules of which something is measured.
var measured = []string{
	"golang.org/x/sys", "gvisor.dev/gvisor", "github.com/opencontainers/runc", "github.com/mdlayher/socket",
	"github.com/ftrvxmtrx/fd", "github.com/hugelgupf/socketpair", "github.com/tailscale/peercred",
	"github.com/cloudflare/tableflip", "github.com/jpillora/overseer", "github.com/fvbock/endless",
}

func firstLine(command string, args ...string) string {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return "none"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// write prints the tables, and writes what the options ask for.
func (r *Report) write() error {
	text := r.markdown()
	if _, err := os.Stdout.Write(text); err != nil {
		return err
	}
	if r.options.page != "" && r.options.all {
		if err := insert(r.options.page, text); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(r.options.page), "ratios.svg"), r.picture(), 0o644); err != nil {
			return err
		}
	}
	if r.options.out == "" {
		return nil
	}
	if err := os.MkdirAll(r.options.out, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"results.json": append(data, '\n'), "results.md": text, "ratios.svg": r.picture(),
	} {
		if err := os.WriteFile(filepath.Join(r.options.out, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// The markers of a page, around what a run puts there.
const (
	beginMarker = "<!-- begin of the results: written by bench/run.sh -->\n"
	endMarker   = "<!-- end of the results -->\n"
)

// insert puts text between the markers of a page.
func insert(page string, text []byte) error {
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(beginMarker))
	_, after, found := bytes.Cut(rest, []byte(endMarker))
	if !ok || !found {
		return errors.Errorf("%s has no markers for the results", page)
	}
	return os.WriteFile(page, slices.Concat(before, []byte(beginMarker), []byte("\n"), text, []byte("\n"), []byte(endMarker), after), 0o644)
}
