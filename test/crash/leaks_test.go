package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/cgroup"
	"berth/test/client"
	"berth/test/node"
)

// berth runs the operator's program on the node.
func (d *daemon) berth(args ...string) (string, error) {
	d.t.Helper()
	config := filepath.Join(d.Dir, "berth.toml")
	argv := d.Command()
	bin := argv[slices.Index(argv, "--cni-bin-dir")+1]
	text := fmt.Sprintf("cni_conf_dir = %q\ncni_bin_dir = [\"%s\"]\n", d.ConfDir, strings.ReplaceAll(bin, ",", `", "`))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	c := exec.Command(filepath.Join("..", "..", "bin", "berth"), append([]string{"--config", config, "--address", d.Endpoint, "--root", d.Root, "--state", d.State}, args...)...)
	out, err := c.CombinedOutput()
	return string(out), err
}

// TestCgroupsOfNobodyGoAtTheStart: a cgroup that was made for a pod of this node which has
// no record any more is removed, with what runs in it; those of other daemons stay.
func TestCgroupsOfNobodyGoAtTheStart(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	top := "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err != nil {
		top += "/cpu"
	}
	made := func(name, owner string) string {
		dir := filepath.Join(top, "berth-"+name)
		if err := os.MkdirAll(filepath.Join(dir, "ctr"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cgroup.RemoveTree(dir) })
		if owner != "" {
			cgroup.Mark([]string{dir}, owner)
		}
		return dir
	}
	ours := made("0123456789ab0", d.State)
	neighbours, unmarked := made("0123456789ab1", d.State+"2"), made("0123456789ab2", "")
	d.pull(busybox)
	config := d.podConfig("living")
	config.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
	}
	living := d.run(config)
	if _, marked := cgroup.MarkedFor(d.State)["berth-"+living.ID[:13]]; !marked {
		t.Error("the cgroup of a pod does not tell whose it is")
	}
	d.crash()
	eventually(t, "the cgroup is gone", func() bool { return isGone(ours) })
	for _, dir := range []string{neighbours, unmarked} {
		if isGone(dir) {
			t.Errorf("%s is not this daemon's and is gone", dir)
		}
	}
	if _, marked := cgroup.MarkedFor(d.State)["berth-"+living.ID[:13]]; !marked {
		t.Error("the cgroup of a living pod is gone")
	}
	living.Remove()
}

// TestWipe: a node whose daemon is dead is emptied, of what runs as well, and the next
// daemon finds nothing.
func TestWipe(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.pull(busybox)
	d.shimKills = 1
	one, two := d.counts("one"), d.counts("two")
	created := two.p.create(client.Shell("created", "sleep 1000"))
	if out, err := d.berth("check", "--leaks"); err != nil || out != "" {
		t.Errorf("a node without leaks: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"wipe", "--yes"}, {"check", "--leaks", "--repair"}} {
		if out, err := d.berth(args...); err == nil || !strings.Contains(out, "berthd is running") {
			t.Errorf("%v beside a running daemon: %v\n%s", args, err, out)
		}
	}
	one.stillRuns()
	d.kill()
	out, err := d.berth("wipe") // without an answer
	if err == nil || !strings.Contains(out, "nothing was removed") || !strings.Contains(out, one.p.ID) || !strings.Contains(out, created.ID) {
		t.Errorf("a wipe that was not agreed to: %v\n%s", err, out)
	}
	if out, err := d.berth("wipe", "--yes", "--images"); err != nil {
		t.Errorf("wipe: %v\n%s", err, out)
	}
	eventually(t, "nothing runs", func() bool { all, err := d.Descendants(); return err == nil && len(all) == 0 })
	if err := d.Leaks(); err != nil {
		t.Errorf("after the wipe: %v", err)
	}
	if out, err := d.berth("check", "--leaks"); err != nil {
		t.Errorf("after the wipe: %v\n%s", err, out)
	}
	d.restart()
	if pods, err := d.Client.Pods(within(t), nil); err != nil || len(pods) > 0 {
		t.Errorf("after the wipe there are the pods %v, %v", pods, err)
	}
	p := d.pod("new")
	p.works()
	p.Remove()
}

// TestProcessesOfNobodyAreFound: a shim whose directory was removed by hand, and the pause
// process of a pod whose record and shim are gone, serve nobody and would stay for ever. The
// operator's program finds exactly them, without and beside a daemon, and ends them; those
// of a pod with a record, and those of another node, stay.
func TestProcessesOfNobodyAreFound(t *testing.T) {
	neighbour := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	neighbour.pull(busybox)
	neighbour.witness = neighbour.run(neighbour.hostPod("neighbour")).start("counter", client.Counter)
	for name, plant := range map[string]func(d *daemon, lost *pod) (pid int){
		"berth-shim": func(d *daemon, _ *pod) int {
			pid := d.shimPID()
			d.kill()
			d.removeTree(d.State, "shims", d.shims()[0])
			return pid
		},
		"pause": func(d *daemon, lost *pod) int {
			pid := lost.pause()
			d.kill() // first: it would replace the shim
			d.killShim()
			d.removeTree(d.Root, "pods", lost.ID)
			return pid
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
			d.pull(busybox)
			kept, lost := d.run(d.hostPod("kept")), d.run(d.hostPod("lost"))
			keptPause := kept.pause()
			pid := plant(d, lost)
			want := fmt.Sprintf("process %d (%s)", pid, name)
			out, err := d.berth("check", "--leaks")
			if err == nil || strings.Count(oneSpace(out), "process ") != 1 || !strings.Contains(oneSpace(out), want) {
				t.Errorf("want %q among the leaks, and no other process: %v\n%s", want, err, out)
			}
			held := openPID(t, pid)
			if out, err := d.berth("check", "--leaks", "--repair"); err != nil {
				t.Errorf("repair: %v\n%s", err, out)
			}
			held.await()
			if out, err := d.berth("check", "--leaks"); err != nil {
				t.Errorf("after the repair: %v\n%s", err, out)
			}
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", keptPause)); err != nil {
				t.Errorf("the pause process of a pod with a record is gone: %v", err)
			}
			d.restart()
			kept.Remove()
			p := d.run(d.hostPod("new"))
			p.start("c", "sleep 1000")
			p.Remove()
			if out, err := d.berth("check", "--leaks"); err != nil {
				t.Errorf("in the end: %v\n%s", err, out)
			}
		})
	}
	neighbour.witness.stillRuns()
}

// removeTree is what an operator does who wants to be rid of something.
func (d *daemon) removeTree(parts ...string) {
	d.t.Helper()
	if err := os.RemoveAll(filepath.Join(parts...)); err != nil {
		d.t.Fatal(err)
	}
}

// oneSpace makes the columns of a table one space apart.
func oneSpace(table string) string { return strings.Join(strings.Fields(table), " ") }
