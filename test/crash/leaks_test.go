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
