package crash

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod is a pod sandbox of a test; what it was when it became ready.
type pod struct {
	d      *daemon
	ID, IP string
	Config *runtimeapi.PodSandboxConfig
}

func (d *daemon) podConfig(name string) *runtimeapi.PodSandboxConfig {
	d.t.Helper()
	logs, err := os.MkdirTemp(d.LogDir, name+"-")
	if err != nil {
		d.t.Fatal(err)
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "crash", Uid: filepath.Base(logs)},
		Labels:       map[string]string{"uid": filepath.Base(logs)},
		LogDirectory: logs,
		Linux:        &runtimeapi.LinuxPodSandboxConfig{},
	}
}

// run runs a pod; it stays until it is removed.
func (d *daemon) run(c *runtimeapi.PodSandboxConfig) *pod {
	d.t.Helper()
	r, err := d.Runtime.RunPodSandbox(within(d.t), &runtimeapi.RunPodSandboxRequest{Config: c})
	if err != nil {
		d.t.Fatalf("RunPodSandbox: %v", err)
	}
	p := &pod{d: d, ID: r.GetPodSandboxId(), Config: c}
	p.IP = p.status().GetNetwork().GetIp()
	return p
}

func (d *daemon) pod(name string) *pod {
	d.t.Helper()
	return d.run(d.podConfig(name))
}

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	p.d.t.Helper()
	r, err := p.d.Runtime.PodSandboxStatus(within(p.d.t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		p.d.t.Fatalf("PodSandboxStatus: %v", err)
	}
	return r.GetStatus()
}

func (p *pod) stop() {
	p.d.t.Helper()
	if _, err := p.d.Runtime.StopPodSandbox(within(p.d.t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.d.t.Fatalf("StopPodSandbox: %v", err)
	}
}

func (p *pod) remove() {
	p.d.t.Helper()
	if _, err := p.d.Runtime.RemovePodSandbox(within(p.d.t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.d.t.Fatalf("RemovePodSandbox: %v", err)
	}
}

// find lists the pods of a configuration.
func (d *daemon) find(c *runtimeapi.PodSandboxConfig) []*runtimeapi.PodSandbox {
	d.t.Helper()
	r, err := d.Runtime.ListPodSandbox(within(d.t), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: c.GetLabels()},
	})
	if err != nil {
		d.t.Fatalf("ListPodSandbox: %v", err)
	}
	return r.GetItems()
}

// containers lists those of a pod.
func (p *pod) containers() []*runtimeapi.Container {
	p.d.t.Helper()
	r, err := p.d.Runtime.ListContainers(within(p.d.t), &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.ID},
	})
	if err != nil {
		p.d.t.Fatalf("ListContainers: %v", err)
	}
	return r.GetContainers()
}

func (d *daemon) pull(ref string) {
	d.t.Helper()
	_, err := d.Images.PullImage(within(d.t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		d.t.Fatalf("PullImage %s: %v", ref, err)
	}
}

// ctr is a container of a test.
type ctr struct {
	p   *pod
	ID  string
	pid int // of the first process on the host; 0: never asked
}

func (p *pod) config(name, script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: busybox},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Linux:    &runtimeapi.LinuxContainerConfig{},
	}
}

func (p *pod) createRequest(c *runtimeapi.ContainerConfig) *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: c, SandboxConfig: p.Config}
}

func (p *pod) create(c *runtimeapi.ContainerConfig) *ctr {
	p.d.t.Helper()
	r, err := p.d.Runtime.CreateContainer(within(p.d.t), p.createRequest(c))
	if err != nil {
		p.d.t.Fatalf("CreateContainer: %v", err)
	}
	return &ctr{p: p, ID: r.GetContainerId()}
}

func (c *ctr) start() {
	c.p.d.t.Helper()
	if _, err := c.p.d.Runtime.StartContainer(within(c.p.d.t), &runtimeapi.StartContainerRequest{ContainerId: c.ID}); err != nil {
		c.p.d.t.Fatalf("StartContainer: %v", err)
	}
}

// start creates and starts a container.
func (p *pod) start(name, script string) *ctr {
	p.d.t.Helper()
	c := p.create(p.config(name, script))
	c.start()
	_, c.pid = c.details()
	return c
}

func (c *ctr) status() *runtimeapi.ContainerStatus {
	c.p.d.t.Helper()
	st, _ := c.details()
	return st
}

func (c *ctr) details() (*runtimeapi.ContainerStatus, int) {
	c.p.d.t.Helper()
	r, err := c.p.d.Runtime.ContainerStatus(within(c.p.d.t), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		c.p.d.t.Fatalf("ContainerStatus: %v", err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil {
		c.p.d.t.Fatal(err)
	}
	return r.GetStatus(), info.PID
}

// ended waits for the end of a container, by its status: the event may have been
// told while nobody listened.
func (c *ctr) ended() *runtimeapi.ContainerStatus {
	c.p.d.t.Helper()
	var st *runtimeapi.ContainerStatus
	eventually(c.p.d.t, "container has ended", func() bool {
		st = c.status()
		return st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return st
}

func (c *ctr) remove() {
	c.p.d.t.Helper()
	if _, err := c.p.d.Runtime.RemoveContainer(within(c.p.d.t), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		c.p.d.t.Fatalf("RemoveContainer: %v", err)
	}
}

// exec runs a shell command in the container; it must succeed.
func (c *ctr) exec(script string) string {
	c.p.d.t.Helper()
	r, err := c.p.d.Runtime.ExecSync(within(c.p.d.t), &runtimeapi.ExecSyncRequest{
		ContainerId: c.ID, Cmd: []string{"sh", "-c", script}, Timeout: 10,
	})
	if err != nil {
		c.p.d.t.Fatalf("ExecSync %q: %v", script, err)
	}
	if r.GetExitCode() != 0 {
		c.p.d.t.Fatalf("%q ended with %d: %s%s", script, r.GetExitCode(), r.GetStdout(), r.GetStderr())
	}
	return string(r.GetStdout())
}

// counter prints 0, 1, 2, … a line each, some fifty a second. It waits for a FIFO that
// nothing is written to: with a process for each wait, twenty counters would be all
// that the machine does.
const counter = `mkfifo /never; exec 3<>/never; i=0; while :; do echo $i; i=$((i+1)); read -t 0.02 -u 3 never; done`

// lines is how many lines a counter has logged; that none is missing, twice or
// torn is checked. What a shim had read, which is what was there to be read, and not
// written when it was killed may be missing: one gap at each kill.
func (c *ctr) lines() int {
	t := c.p.d.t
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.p.Config.GetLogDirectory(), "counter.log"))
	if err != nil {
		t.Fatal(err)
	}
	n, next, gaps := 0, 0, 0
	for line := range strings.Lines(string(data)) {
		stamp, rest, _ := strings.Cut(line, " ")
		number := -1
		_, serr := fmt.Sscanf(rest, "stdout F %d\n", &number)
		if number > next && gaps < c.p.d.shimKills {
			next = number
			gaps++
		}
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || serr != nil || number != next || !strings.HasSuffix(rest, "\n") {
			t.Fatalf("line %d of the log is %q, want %d, with %d gaps before and %d shims killed", n, line, next, gaps, c.p.d.shimKills)
		}
		n++
		next++
	}
	return n
}

// stillRuns checks that a pod and its counter never noticed anything.
func (c *ctr) stillRuns() {
	t := c.p.d.t
	t.Helper()
	if st := c.p.status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || st.GetNetwork().GetIp() != c.p.IP {
		t.Errorf("pod %.13s is %v with IP %q, was ready with %q", c.p.ID, st.GetState(), st.GetNetwork().GetIp(), c.p.IP)
	}
	st, pid := c.details()
	if st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || pid != c.pid {
		t.Errorf("container %.13s is %v with process %d, was running with %d", c.ID, st.GetState(), pid, c.pid)
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid))
	if err != nil || !strings.Contains(string(cgroup), c.ID) {
		t.Errorf("process %d is not the container's: %v", c.pid, err)
	}
}

// counts runs a pod with a counter.
func (d *daemon) counts(name string) *ctr {
	d.t.Helper()
	return d.pod(name).start("counter", counter)
}

// watch gives the node its witness.
func (d *daemon) watch() {
	d.t.Helper()
	d.pull(busybox)
	d.pull(volume)
	d.witness = d.counts("witness")
}

// unnoticed checks the witness, once more after the last restart.
func (d *daemon) unnoticed() {
	d.t.Helper()
	d.witness.stillRuns()
	n := d.witness.lines()
	eventually(d.t, "the witness goes on", func() bool { return d.witness.lines() > n })
	if got := strings.TrimSpace(d.witness.exec("echo still here")); got != "still here" {
		d.t.Errorf("exec in the witness says %q", got)
	}
}
