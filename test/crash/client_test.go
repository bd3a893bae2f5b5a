package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

var (
	within     = client.Within
	eventually = client.Eventually
	bound      = client.Bound // of a time on the machine as it is
)

// pod is a pod of a test on a node whose daemon comes and goes.
type pod struct {
	*client.Pod
	d *daemon
}

// ctr is a container of a test.
type ctr struct {
	*client.Container
	p   *pod
	pid int // of the first process on the host; 0: never asked
}

// kit makes pods on the daemon's node. Their containers' ends are found by status:
// the event may have been sent while no daemon and no client was there.
func (d *daemon) kit() *client.Kit {
	return &client.Kit{Client: d.Client, T: d.t, LogDir: d.LogDir, Namespace: "crash"}
}

func (d *daemon) podConfig(name string) *runtimeapi.PodSandboxConfig {
	d.t.Helper()
	return d.kit().PodConfig(name)
}

// run runs a pod; it stays until it is removed.
func (d *daemon) run(c *runtimeapi.PodSandboxConfig) *pod {
	d.t.Helper()
	return &pod{d.kit().Run(c), d}
}

func (d *daemon) pod(name string) *pod {
	d.t.Helper()
	return d.run(d.podConfig(name))
}

// podOf is the pod with an ID, which a test has made by a call of its own.
func (d *daemon) podOf(id string, c *runtimeapi.PodSandboxConfig) *pod {
	return &pod{&client.Pod{Kit: *d.kit(), ID: id, Config: c}, d}
}

// find lists the pods of a configuration.
func (d *daemon) find(c *runtimeapi.PodSandboxConfig) []*runtimeapi.PodSandbox {
	d.t.Helper()
	return d.kit().Find(c)
}

func (d *daemon) pull(ref string) {
	d.t.Helper()
	if _, err := d.Pull(within(d.t), ref); err != nil {
		d.t.Fatal(err)
	}
}

func (p *pod) create(c *runtimeapi.ContainerConfig) *ctr {
	p.T.Helper()
	return &ctr{Container: p.Create(c), p: p}
}

// ctr is the container with an ID.
func (p *pod) ctr(id string) *ctr {
	return &ctr{Container: &client.Container{Kit: p.Kit, Pod: p.Pod, ID: id}, p: p}
}

// start creates and starts a container that runs a shell command.
func (p *pod) start(name, script string) *ctr {
	p.T.Helper()
	c := p.create(client.Shell(name, script))
	c.start()
	_, c.pid = c.details()
	return c
}

func (c *ctr) start() {
	c.T.Helper()
	if err := c.TryStart(); err != nil {
		c.T.Fatal(err)
	}
}

// details are the container's status and its first process.
func (c *ctr) details() (*runtimeapi.ContainerStatus, int) {
	c.T.Helper()
	var info struct {
		PID int `json:"pid"`
	}
	st := c.Verbose(&info)
	return st, info.PID
}

// lines is how many lines a counter has logged; that none is missing, twice or
// torn is checked, also where shims were killed.
func (c *ctr) lines() int {
	t := c.p.d.t
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.p.Config.GetLogDirectory(), "counter.log"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		stamp, rest, _ := strings.Cut(line, " ")
		number := -1
		_, serr := fmt.Sscanf(rest, "stdout F %d\n", &number)
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || serr != nil || number != n || !strings.HasSuffix(rest, "\n") {
			t.Fatalf("line %d of the log is %q; %d shims were killed", n, line, c.p.d.shimKills)
		}
		n++
	}
	return n
}

// stillRuns checks that a pod and its counter never noticed anything.
func (c *ctr) stillRuns() {
	t := c.p.d.t
	t.Helper()
	if st := c.p.Status(); st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || st.GetNetwork().GetIp() != c.p.IP {
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
	return d.pod(name).start("counter", client.Counter)
}

// watch gives the node its witness.
func (d *daemon) watch() {
	d.t.Helper()
	d.pull(busybox)
	d.pull(volume)
	d.witness = d.counts("witness")
	// Then its shell has no other process, which would be taken for one that goes missing.
	eventually(d.t, "the witness counts", func() bool { return d.witness.lines() > 0 })
}

// unnoticed checks the witness, once more after the last restart.
func (d *daemon) unnoticed() {
	d.t.Helper()
	d.witness.stillRuns()
	n := d.witness.lines()
	eventually(d.t, "the witness goes on", func() bool { return d.witness.lines() > n })
	if got := strings.TrimSpace(d.witness.Sh("echo still here")); got != "still here" {
		d.t.Errorf("exec in the witness says %q", got)
	}
}
