package explain

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// report explains what, and returns its findings, a line each, and its facts as
// "layer/name: value".
func report(t *testing.T, pods *Pods, what string) (found, facts string) {
	t.Helper()
	r, err := pods.Explain(what)
	if err != nil {
		t.Fatal(err)
	}
	var findings, all []string
	for _, f := range r.Findings {
		findings = append(findings, f.line())
	}
	for _, l := range r.Layers {
		for _, f := range l.Facts {
			all = append(all, l.Name+"/"+f.Name+": "+f.Value)
		}
	}
	return strings.Join(findings, "\n"), strings.Join(all, "\n")
}

// wantAll fails for each part that a text lacks.
func wantAll(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: no %q in\n%s", what, part, text)
		}
	}
}

// withPause makes a child of this test the pod's pause.
func withPause(t *testing.T, p *pod) {
	t.Helper()
	pause := running(t)
	p.PausePID, p.PauseStart = pause.PID, pause.StartTime
}

// What became of a pod's pause, and why.
func TestPauseOfAPod(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *pod)
		want   []string
	}{
		"runs":       {func(p *pod) { withPause(t, p); p.ShimID = "s1" }, []string{"process/pause: runs as pid ", "below shim s1"}},
		"stopped":    {func(p *pod) { p.Intent = "stopped" }, []string{"process: the pod was stopped by its client", "process/pause: gone; the pod was stopped"}},
		"stopping":   {func(p *pod) { p.Intent = "stopping" }, []string{"process: the pod was stopped by its client"}},
		"other boot": {func(p *pod) { p.BootID = "another" }, []string{"process: the machine was started again", "process/pause: gone with another boot"}},
		"ended":      {func(p *pod) { p.PausePID = 1 << 22 }, []string{"process: the pause process has ended", "pid 4194304 does not run any more"}},
	} {
		pods, _ := records(t, stopped(0), "")
		c.change(pods.all[0])
		found, facts := report(t, pods, "aaaa")
		wantAll(t, name, found+"\n"+facts, c.want...)
	}
}

// A pod's report has a line for each container, and the strongest finding of any.
func TestContainersOfAPod(t *testing.T) {
	killed := stopped(137)
	killed.OOMKilled = true
	pods, _ := records(t, killed, "")
	withPause(t, pods.all[0])
	found, facts := report(t, pods, "aaaa")
	wantAll(t, "findings", found, "container web, process: the kernel killed it for memory")
	wantAll(t, "facts", facts, "containers/web: exited with code 137, OOMKilled, bbbb", "containers/shop: being made, bbcc")
	pods.all[0].containers = nil
	_, facts = report(t, pods, "aaaa")
	wantAll(t, "without containers", facts, "containers/none: no container was made in this pod")
}

func withFact(fact shimapi.Record) container {
	c := container{}
	c.fact = fact
	return c
}

func TestStateOfAContainer(t *testing.T) {
	oom, refused, lost := stopped(137), stopped(128), stopped(0)
	oom.OOMKilled, refused.Reason, lost.Status, lost.BootID = true, "StartError", shimapi.StatusRunning, "another"
	for want, c := range map[string]container{
		"exited with code 3":               withFact(stopped(3)),
		"exited with code 137, OOMKilled":  withFact(oom),
		"exited with code 128, StartError": withFact(refused),
		"exited, its code was lost":        withFact(lost),
		"being made":                       {},
		"running":                          withFact(shimapi.Record{Status: shimapi.StatusRunning, BootID: bootID()}),
	} {
		if got := c.state(); got != want {
			t.Errorf("state is %q, want %q", got, want)
		}
	}
}

func TestShellCode(t *testing.T) {
	for code, want := range map[int]string{
		1: "", 126: " (of a shell: the command can't be executed)", 127: " (of a shell: no such command)",
		128: "", 137: " (of a shell: its command was ended by SIGKILL)", 200: "",
	} {
		if got := shellCode(code); got != want {
			t.Errorf("shellCode(%d) = %q, want %q", code, got, want)
		}
	}
}

// How long the creation took is told by stage, and the start by its delay.
func TestDurations(t *testing.T) {
	fact := running(t)
	fact.CreatedAt = fact.StartedAt.Add(-1500 * time.Microsecond)
	pods, _ := records(t, fact, "")
	c := pods.all[0].containers[0]
	c.Took = append(c.Took, struct {
		Stage  string `json:"stage"`
		Micros int64  `json:"us"`
	}{"rootfs", 2500})
	_, facts := report(t, pods, "bbbb")
	wantAll(t, "facts", facts, "process/took: rootfs 2.5ms", "process/start came: 1.5ms after the creation")
}

// A stopped process says so.
func TestStoppedBySignal(t *testing.T) {
	fact := running(t)
	pods, _ := records(t, fact, "")
	if err := unix.Kill(fact.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		st, err := process{pid: fact.PID}.status()
		if err == nil && strings.HasPrefix(st["State"], "T") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("state %q after SIGSTOP, %v", st["State"], err)
		}
	}
	found, _ := report(t, pods, "bbbb")
	wantAll(t, "findings", found, "process: it is stopped by a signal: send it SIGCONT")
}

// Mounts that the client asked for: there, gone behind the container's back, and
// with a source that is gone.
func TestVolumes(t *testing.T) {
	pods, root := records(t, running(t), "")
	c := pods.all[0].containers[0]
	c.config.Mounts = append(c.config.Mounts, mountOf("/", root), mountOf("/data", filepath.Join(root, "none")), mountOf("/image", ""))
	found, facts := report(t, pods, "bbbb")
	wantAll(t, "facts", facts, "filesystem//: "+root+" (", "filesystem//data: "+filepath.Join(root, "none")+" (not mounted now)")
	wantAll(t, "findings", found,
		"filesystem: the source of /data, "+filepath.Join(root, "none")+", is gone",
		"filesystem: its root filesystem was unmounted behind its back")
	if strings.Contains(found, "/image") {
		t.Errorf("the image volume, which has no source, is found fault with:\n%s", found)
	}
}

// The root of an ended container need not be mounted.
func TestRootOfAnEndedContainer(t *testing.T) {
	pods, _ := records(t, stopped(0), "")
	found, facts := report(t, pods, "bbbb")
	wantAll(t, "facts", facts, "filesystem/root: not mounted any more", "filesystem/free: ")
	if strings.Contains(found, "unmounted") {
		t.Errorf("findings of a container that ended well:\n%s", found)
	}
}

func TestNameServers(t *testing.T) {
	for text, want := range map[string]string{
		"nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch x\n": "network/name servers: 10.0.0.1 10.0.0.2",
		"search nowhere\n": "network: no name can be resolved: there is no name server",
	} {
		pods, root := records(t, stopped(0), "")
		write(t, filepath.Join(root, "pods", "aaaa", "resolv.conf"), text)
		found, facts := report(t, pods, "bbbb")
		wantAll(t, text, found+"\n"+facts, want)
	}
}

func TestAllDevices(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	null := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(1), Minor: number(3)}
	all, none := specs.LinuxDeviceCgroup{Allow: true, Type: "a"}, specs.LinuxDeviceCgroup{}
	for name, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  bool
	}{
		"no rule":            {nil, true},
		"all":                {[]specs.LinuxDeviceCgroup{all}, true},
		"none":               {[]specs.LinuxDeviceCgroup{none}, false},
		"none but one":       {[]specs.LinuxDeviceCgroup{none, null}, false},
		"none, then all":     {[]specs.LinuxDeviceCgroup{none, all}, true},
		"all, then none":     {[]specs.LinuxDeviceCgroup{all, none, null}, false},
		"all of a character": {[]specs.LinuxDeviceCgroup{none, {Allow: true, Type: "c"}}, false},
	} {
		ctr := &container{Spec: specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: c.rules}}}}
		if got := ctr.allDevices(); got != c.want {
			t.Errorf("%s: allDevices() = %t, want %t", name, got, c.want)
		}
	}
	if !(&container{}).allDevices() {
		t.Error("without a spec: allDevices() = false, want true")
	}
}

func TestSensitivePaths(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/etc": true, "/etc/": true, "/var/run": true, "/run/berth/berth.sock": true, "/usr/../etc": true,
		"/etc/hosts": false, "/data": false, "/var/lib/app": false,
	} {
		if got := sensitive(path); got != want {
			t.Errorf("sensitive(%q) = %t, want %t", path, got, want)
		}
	}
}

// The table has a row for each running container, the least isolated first.
func TestAudit(t *testing.T) {
	pods, root := records(t, running(t), "")
	second := running(t)
	second.ID = "bbcc"
	c := pods.all[0].containers[1]
	c.fact, c.config.Mounts = second, append(c.config.Mounts, mountOf("/host", "/etc"), mountOf("/own", root))
	c.Spec.Linux.MaskedPaths = nil
	all := pods.Audit()
	if len(all) != 2 || all[0].ID != "bbcc" {
		t.Fatalf("audit is %+v, want bbcc first of two", all)
	}
	weak := strings.Join(all[0].Weak, "; ")
	wantAll(t, "why bbcc is weak", weak, "host net", "unmasked /proc and /sys", "writes to /etc")
	if strings.Contains(weak, root) {
		t.Errorf("writing to %s is no weakness, got %q", root, weak)
	}
	if os.Geteuid() == 0 && all[0].User != "0 of the machine" {
		t.Errorf("user is %q, want %q", all[0].User, "0 of the machine")
	}
	var b strings.Builder
	if err := WriteAudit(&b, append(all, Isolation{ID: "cccc", Name: "safe", Pod: "prod/shop", User: "1000"})); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(rows) != 4 || !strings.HasSuffix(rows[3], "-") || !strings.HasPrefix(rows[0], "POD") {
		t.Errorf("table is\n%s\nwant a head, two rows and one that ends with -", b.String())
	}
}

func TestDifference(t *testing.T) {
	a, b := difference([]string{"x", "y"}, []string{"y", "z"})
	if !slices.Equal(a, []string{"x"}) || !slices.Equal(b, []string{"z"}) {
		t.Errorf("difference is %q and %q, want [x] and [z]", a, b)
	}
}

func TestSome(t *testing.T) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint(i))
	}
	for want, n := range map[string]int{"none": 0, "0": 1, "0 1 2 3 4 5 6 7": 8, "0 1 2 3 4 5 6 7 and 2 more": 10} {
		if got := some(names[:n]); got != want {
			t.Errorf("some of %d names is %q, want %q", n, got, want)
		}
	}
}

func TestEffectiveID(t *testing.T) {
	for ids, want := range map[string]string{"1\t2\t3\t4": "2", "": "", "1 2": "1 2"} {
		if got := effective(ids); got != want {
			t.Errorf("effective(%q) = %q, want %q", ids, got, want)
		}
	}
}
