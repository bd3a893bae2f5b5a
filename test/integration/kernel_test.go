package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/moby/sys/mountinfo"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cmd/berth/explain"
)

// procStatus is /proc/PID/status, its values by their names.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		out[name] = strings.TrimSpace(value)
	}
	return out
}

// capMask is one of the five capability sets of a process.
func capMask(t *testing.T, pid int, set string) uint64 {
	t.Helper()
	mask, err := strconv.ParseUint(procStatus(t, pid)[set], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return mask
}

// mountTable is what a process sees mounted.
func mountTable(t *testing.T, pid int) []*mountinfo.Info {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// traces are what the kernel and the disk have of a pod's containers: mounts,
// cgroups, directories.
func (p *pod) traces() []string {
	p.T.Helper()
	var out []string
	_, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		if strings.HasPrefix(i.Mountpoint, p.s.State+"/containers/") {
			out = append(out, "mount "+i.Mountpoint)
		}
		return true, false
	})
	if err != nil {
		p.T.Fatal(err)
	}
	for _, pattern := range []string{
		filepath.Join(p.s.Root, "pods", p.ID, "containers", "*"), filepath.Join(p.s.State, "containers", "*"),
		"/sys/fs/cgroup/berth-" + p.ID[:13] + "/*/", "/sys/fs/cgroup/*/berth-" + p.ID[:13] + "/*/",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			p.T.Fatal(err)
		}
		out = append(out, found...)
	}
	slices.Sort(out)
	return out
}

// waitFor blocks until ok is true of a file, looking at it whenever it changes.
func waitFor(t *testing.T, file string, ok func(text string) bool) string {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	for {
		data, err := os.ReadFile(file)
		if err == nil && ok(string(data)) {
			return string(data)
		}
		select {
		case <-w.Events:
		case <-ctx.Done():
			t.Fatalf("%s is still %q, %v", file, data, err)
		}
	}
}

// says waits until the container's log has a line with text.
func (c *ctr) says(text string) {
	c.p.T.Helper()
	waitFor(c.p.T, c.LogFile(), func(log string) bool { return strings.Contains(log, text) })
}

// sleeper prints a line once it is what the kernel executes.
const sleeper = "echo up; exec sleep 1000"

// idle starts a container that does nothing, and waits until the kernel has
// executed its command: before that, its first process is still the runtime's.
func (p *pod) idle(name string, change ...func(*runtimeapi.ContainerConfig)) *ctr {
	p.T.Helper()
	c := p.start(name, sleeper, change...)
	c.says("up")
	return c
}

// berth runs the operator's tool on the records of the node.
func (s *suite) berth(t *testing.T, args ...string) string {
	t.Helper()
	all := append([]string{"--config", os.DevNull, "--root", s.Root, "--state", s.State}, args...)
	cmd := exec.CommandContext(within(t), filepath.Join("..", "..", "bin", "berth"), all...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("berth %q: %v: %s", args, err, out)
	}
	return string(out)
}

// explain is what the operator's tool says of a pod or container.
func (s *suite) explain(t *testing.T, id string) *explain.Report {
	t.Helper()
	report := &explain.Report{}
	if err := json.Unmarshal([]byte(s.berth(t, "explain", "--json", id)), report); err != nil {
		t.Fatal(err)
	}
	return report
}

// likely checks the reason that explain ends with, for programs and for people.
func (c *ctr) likely(layer string, words ...string) {
	c.p.T.Helper()
	report := c.p.s.explain(c.p.T, c.ID)
	for _, w := range append(words, layer+": ") {
		if !strings.Contains(report.Likely, w) {
			c.p.T.Errorf("explain finds most likely %q, want layer %s and %q", report.Likely, layer, w)
		}
	}
	lines := strings.Split(strings.TrimSpace(c.p.s.berth(c.p.T, "explain", c.ID)), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "Most likely: "+layer+": ") {
		c.p.T.Errorf("explain's last line is %q", last)
	}
}

// fact is the value of a fact that explain tells of a layer.
func (c *ctr) fact(layer, name string) string {
	c.p.T.Helper()
	report := c.p.s.explain(c.p.T, c.ID)
	value := factOf(report, layer, name)
	if value == "" {
		c.p.T.Errorf("explain has no fact %s in layer %s: %+v", name, layer, report.Layers)
	}
	return value
}

func factOf(r *explain.Report, layer, name string) string {
	for _, l := range r.Layers {
		for _, f := range l.Facts {
			if l.Name == layer && f.Name == name {
				return f.Value
			}
		}
	}
	return ""
}

// audit is what the operator's tool lists of a pod's containers, by their names.
func (p *pod) audit() map[string]explain.Isolation {
	p.T.Helper()
	var all []explain.Isolation
	if err := json.Unmarshal([]byte(p.s.berth(p.T, "audit", "--json")), &all); err != nil {
		p.T.Fatal(err)
	}
	out := map[string]explain.Isolation{}
	for _, is := range all {
		if is.Pod == p.Config.GetMetadata().GetNamespace()+"/"+p.Config.GetMetadata().GetName() {
			out[is.Name] = is
		}
	}
	return out
}
