package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/test/client"
	"berth/test/node"
)

// level is what programs and machine hold while there are no pods but the witness.
type level struct {
	daemon, shim held
	goroutines   int // of berthd
	facts        node.Facts
}

// held is what one program holds.
type held struct {
	files, threads int
	anonymous      int // KiB of memory that is backed by no file
}

func (h held) String() string {
	return fmt.Sprintf("%d files, %d threads, %.1f MiB", h.files, h.threads, float64(h.anonymous)/1024)
}

func (l level) String() string {
	counts := map[string]int{}
	for _, f := range l.facts {
		kind, _, _ := strings.Cut(f, " ")
		counts[kind]++
	}
	return fmt.Sprintf("berthd %v, %d goroutines; shim %v; processes %d, mounts %d, links %d, leases %d, rules %d, cgroups %d, files %d",
		l.daemon, l.goroutines, l.shim, counts["process"], counts["mount"], counts["link"], counts["lease"], counts["rule"], counts["cgroup"], counts["file"])
}

// settling is how long what ended may take to be gone: a layer's removal goes on in the
// background, and the kernel frees links by itself.
var settling = client.Bound(15 * time.Second)

// level reads what is held.
func (p *phase) level(ctx context.Context) (l level, err error) {
	if l.facts, err = p.facts(); err != nil {
		return l, err
	}
	if l.goroutines, err = p.goroutines(ctx); err != nil {
		return l, err
	}
	if l.daemon, err = holds(p.node.PID()); err != nil {
		return l, err
	}
	shims, err := p.shims()
	for _, pid := range shims {
		h, herr := holds(pid)
		if herr != nil {
			return l, herr
		}
		l.shim = held{l.shim.files + h.files, l.shim.threads + h.threads, l.shim.anonymous + h.anonymous}
	}
	return l, err
}

// compare holds the last of the levels to the first. What is left on the machine is judged
// always; what programs hold only where they are the same processes.
func (p *phase) compare(ctx context.Context, levels []level) {
	first, last := levels[0], levels[len(levels)-1]
	diff := first.facts.Diff(last.facts)
	for deadline := time.Now().Add(settling); diff != "" && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(100 * time.Millisecond)
		facts, err := p.facts()
		if err != nil {
			p.Problem("%v", err)
			return
		}
		diff = first.facts.Diff(facts)
	}
	if diff != "" {
		p.Problem("after a round without its pods the machine differs from that after the first (+ left, - lost):\n%s", diff)
	}
	if p.name != "steady" && p.name != "lives" {
		return
	}
	for _, g := range []struct {
		what        string
		first, last int
		more        int // that is no growth: connections come and go
	}{
		{"files of berthd", first.daemon.files, last.daemon.files, 5},
		{"files of the shim", first.shim.files, last.shim.files, 5},
		{"goroutines of berthd", first.goroutines, last.goroutines, 20},
		{"threads of berthd", first.daemon.threads, last.daemon.threads, 15},
		{"threads of the shim", first.shim.threads, last.shim.threads, 15},
		{"KiB of berthd", first.daemon.anonymous, last.daemon.anonymous, max(8<<10, first.daemon.anonymous/4)},
		{"KiB of the shim", first.shim.anonymous, last.shim.anonymous, max(8<<10, first.shim.anonymous/4)},
	} {
		if g.last > g.first+g.more {
			p.Problem("%s: %d after the first round, %d now", g.what, g.first, g.last)
		}
	}
}

var (
	shimProcess = regexp.MustCompile(`^process \d+ berth-shim .*`)
	shimFile    = regexp.MustCompile(`(shims|berth-shim)([/-])[0-9a-f]{16}`)
	ownProcess  = regexp.MustCompile(`^process \d+ `)
)

// facts are those of the node, without what differs from witness to witness and from shim
// to shim.
func (p *phase) facts() (node.Facts, error) {
	all, err := p.node.Facts(p.counter)
	names := strings.NewReplacer(p.podID, "POD", p.counter, "COUNTER", p.podID[:13], "POD")
	for i, f := range all {
		f = shimProcess.ReplaceAllString(names.Replace(f), "process of a shim")
		f = ownProcess.ReplaceAllString(f, "process ")
		all[i] = shimFile.ReplaceAllString(f, "$1${2}SHIM")
	}
	return slices.DeleteFunc(all, func(f string) bool { return slices.Contains(madeOnce, f) }), err
}

// madeOnce are directories that berthd makes for its first pod with a network, and keeps.
var madeOnce = []string{"file root/cni", "file root/cni/attempts", "file root/cni/pods", "file root/cni/results"}

func holds(pid int) (h held, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	for sub, n := range map[string]*int{"fd": &h.files, "task": &h.threads} {
		entries, rerr := os.ReadDir(filepath.Join(dir, sub))
		if rerr != nil {
			return h, rerr
		}
		*n = len(entries)
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(rollup)) {
		if value, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			_, err = fmt.Sscanf(value, "%d kB", &h.anonymous)
		}
	}
	return h, err
}

// goroutines asks berthd's metrics.
func (p *phase) goroutines(ctx context.Context) (int, error) {
	socket := filepath.Join(p.node.Dir, "metrics.sock")
	asking := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://berthd/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := asking.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	for in := bufio.NewScanner(io.LimitReader(answer.Body, 16<<20)); in.Scan(); {
		if value, ok := strings.CutPrefix(in.Text(), "go_goroutines "); ok {
			return strconv.Atoi(value)
		}
	}
	return 0, fmt.Errorf("berthd's metrics do not tell of goroutines: %s", answer.Status)
}
