package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// TestAnotherBoot: after a reboot containers are exited, pods are not ready and
// their addresses are free; all can be removed, and new pods run.
func TestAnotherBoot(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.shimKills = 1
	d.pull(busybox)
	d.pod("first").Remove() // its directories stay
	before := d.facts()
	running, ended := d.counts("running"), d.pod("ended").start("c", "exit 3")
	was := ended.Ended()
	created := running.p.create(client.Shell("created", "sleep 1000"))
	half := d.podConfig("half")
	tr := trace(t, d.PID(), 18, d.Dir) // its network is attached
	_, _ = d.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: half})
	d.kill()
	if tr.killed(t) == "" {
		t.Fatal("RunPodSandbox has less than 18 steps")
	}
	d.reboot()
	began := time.Now()
	d.restart()
	for _, p := range []*pod{running.p, ended.p} {
		p.released()
	}
	for name, c := range map[string]*ctr{"running": running, "created": created} {
		st := c.Status()
		if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 255 || st.GetReason() != "ContainerStatusUnknown" {
			t.Errorf("the %s container is %v with code %d, reason %s", name, st.GetState(), st.GetExitCode(), st.GetReason())
		}
		if at := time.Unix(0, st.GetFinishedAt()); at.Before(began) {
			t.Errorf("the %s container ended at %v, before the boot was known to be another", name, at)
		}
	}
	if is := ended.Status(); is.String() != was.String() {
		t.Errorf("a container that had ended before is\n%v, was\n%v", is, was)
	}
	if found := d.find(half); len(found) > 0 {
		t.Errorf("a pod that was never whole: %v", found)
	}
	again := d.run(half)
	again.works()
	again.Remove()
	running.p.Remove()
	ended.p.Remove()
	d.settled("after all pods of another boot are removed", before)
}

// reboot takes away what a reboot does: all processes, with them the namespaces
// and links, mounts, cgroups, rules and the state directory. The records get the
// boot ID of another boot, since that of the kernel stays. The daemon is dead.
func (d *daemon) reboot() {
	d.t.Helper()
	d.killShim()
	for _, dir := range d.ownCgroups() {
		d.killCgroup(dir)
	}
	all, err := d.Descendants()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, p := range all { // pauses
		var pid int
		if _, err := fmt.Sscanf(p, "process %d ", &pid); err != nil {
			d.t.Fatal(err)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	eventually(d.t, "all processes are gone", func() bool {
		left, err := d.Descendants()
		return err == nil && len(left) == 0
	})
	for _, m := range d.mountPoints() {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			d.t.Errorf("unmount %s: %v", m, err)
		}
	}
	if err := os.RemoveAll(d.State); err != nil {
		d.t.Fatal(err)
	}
	eventually(d.t, "links and cgroups are gone", func() bool {
		for _, dir := range d.ownCgroups() {
			_ = os.Remove(dir)
		}
		ports, err := d.PortFacts()
		return err == nil && len(ports) == 0 && len(d.ownCgroups()) == 0
	})
	d.flushRules()
	d.otherBoot()
}

// ownCgroups are those of our pods, deepest first.
func (d *daemon) ownCgroups() []string {
	all, err := d.CgroupFacts()
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, c := range slices.Backward(all) {
		out = append(out, strings.TrimPrefix(c, "cgroup "))
	}
	return out
}

func (d *daemon) killCgroup(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func (d *daemon) mountPoints() []string {
	all, err := d.MountFacts()
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, m := range slices.Backward(all) {
		_, path, _ := strings.Cut(strings.TrimPrefix(m, "mount "), " ")
		out = append(out, filepath.Join(d.Dir, path))
	}
	return out
}

// flushRules removes the NAT rules that name our subnet, then their chains.
func (d *daemon) flushRules() {
	all, err := d.RuleFacts()
	if err != nil {
		d.t.Fatal(err)
	}
	var chains []string
	for _, r := range all {
		r = strings.TrimPrefix(r, "rule ")
		if name, ok := strings.CutPrefix(r, ":"); ok {
			chains = append(chains, strings.Fields(name)[0])
			continue
		}
		if out, err := exec.Command("sh", "-c", "iptables -t nat "+strings.Replace(r, "-A ", "-D ", 1)).CombinedOutput(); err != nil {
			d.t.Errorf("%s: %v: %s", r, err, out)
		}
	}
	for _, c := range chains {
		if out, err := exec.Command("iptables", "-t", "nat", "-X", c).CombinedOutput(); err != nil {
			d.t.Errorf("chain %s: %v: %s", c, err, out)
		}
	}
}

var bootID = regexp.MustCompile(`"boot_id":"[0-9a-f-]+"`)

// otherBoot makes all records of pods and containers those of another boot.
func (d *daemon) otherBoot() {
	err := filepath.WalkDir(filepath.Join(d.Root, "pods"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".json") || strings.Contains(path, "/upper/") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data = bootID.ReplaceAll(data, []byte(`"boot_id":"00000000-1111-2222-3333-444444444444"`))
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// TestRecordOfAnotherBootWhileAllRuns: should the boot ID lie, the pod is ended
// rather than shown twice.
func TestRecordOfAnotherBootWhileAllRuns(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.pull(busybox)
	p := d.pod("first")
	p.works() // directories of the network and the shim stay
	p.Remove()
	before := d.facts()
	c := d.counts("old")
	d.kill()
	d.otherBoot()
	d.restart()
	c.p.released()
	if st := c.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container is %v", st.GetState())
	}
	c.p.Remove()
	d.settled("after the pod is removed", before)
}

// damages are what can have become of a record.
var damages = map[string]func([]byte) []byte{
	"empty":  func([]byte) []byte { return nil },
	"cut":    func(b []byte) []byte { return b[:len(b)/2] },
	"zeroes": func(b []byte) []byte { return make([]byte, len(b)) },
	"newer":  func(b []byte) []byte { return []byte(strings.Replace(string(b), `"version":1`, `"version":99`, 1)) },
	"no config": func(b []byte) []byte {
		return []byte(strings.Replace(string(b), `"config":{`, `"config":{"metadata":7,`, 1))
	},
}

// TestUnreadablePod: a pod whose record can't be read is put aside, with all that
// ran in it ended; nobody else is touched.
func TestUnreadablePod(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	before := d.facts()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			defer d.as(t)()
			c := d.counts("unreadable")
			d.kill()
			d.damage(filepath.Join(d.Root, "pods", c.p.ID, "pod.json"), damage)
			d.restart()
			if found := d.find(c.p.Config); len(found) > 0 {
				t.Errorf("the pod is listed: %v", found)
			}
			aside := filepath.Join(d.Root, "quarantine", c.p.ID)
			if isGone(filepath.Join(aside, "pod.json")) {
				t.Error("the record was not put aside")
			}
			if !d.logged(c.p.ID) || !d.logged("put aside") {
				t.Error("the log does not tell of it")
			}
			if err := os.RemoveAll(filepath.Dir(aside)); err != nil { // by the operator
				t.Fatal(err)
			}
			d.settled("with the pod put aside", before)
			d.witness.stillRuns()
			again := d.run(c.p.Config) // the kubelet starts it anew
			again.works()
			again.Remove()
			d.settled("after a pod that was put aside", before)
		})
	}
	d.unnoticed()
}

func (d *daemon) damage(file string, how func([]byte) []byte) {
	d.t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, how(data), 0o600)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// TestUnreadableContainer: a container whose record can't be read is removed; its
// pod and the other containers go on.
func TestUnreadableContainer(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	p := d.pod("keeps-on")
	conf := client.Shell("other", "")
	conf.Command = []string{"sleep", "1000"}
	other := p.create(conf)
	other.start()
	_, other.pid = other.details()
	eventually(t, "it sleeps", func() bool {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", other.pid))
		return string(cmdline) == "sleep\x001000\x00"
	})
	before := d.facts()
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			defer d.as(t)()
			c := p.start("unreadable", "sleep 1000")
			d.kill()
			d.damage(filepath.Join(d.Root, "pods", p.ID, "containers", c.ID, "container.json"), damage)
			d.restart()
			d.settled("with the container removed", before)
			other.stillRuns()
			if all := p.wantContainers(runtimeapi.ContainerState_CONTAINER_RUNNING); len(all) != 1 {
				t.Errorf("%d containers are there", len(all))
			}
		})
	}
	p.Remove()
	d.unnoticed()
}

// TestLostFacts: without the shim's word on disk the shim itself is asked.
func TestLostFacts(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	c := d.counts("no-facts")
	p := c.p
	ended := p.start("ended", "exit 3")
	ended.Ended()
	d.kill()
	for _, file := range []string{"status.json", "containers/" + c.ID + "/status.json", "containers/" + ended.ID + "/status.json"} {
		if err := os.Remove(filepath.Join(d.Root, "pods", p.ID, file)); err != nil {
			t.Fatal(err)
		}
	}
	d.restart()
	eventually(t, "the shim has told", func() bool { return c.Status().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING })
	c.stillRuns()
	if st := ended.Ended(); st.GetExitCode() != 3 {
		t.Errorf("exit code %d, want 3", st.GetExitCode())
	}
	p.Remove()
	d.unnoticed()
}
