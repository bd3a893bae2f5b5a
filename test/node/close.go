package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/test/client"
)

// Close removes all pods and images, ends the daemon and its shims and cleans
// up. The error tells what could not be removed by the daemon's own means, and
// is nil when nothing was left.
func (n *Node) Close() error {
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	n.noteShims()
	if n.PID() != 0 && n.Client != nil {
		note(n.RemoveAll())
	}
	if n.orders != nil {
		note(n.Stop())
		note(n.processesLeft())
		note(n.order(order{Closed: true}))
		note(n.orders.Close()) // the keeper kills what is left and ends
		note(n.keeper.Wait())
	}
	note(n.Leaks())
	if n.Client != nil {
		note(n.Client.Close())
	}
	return errors.Join(append(errs, n.cleanUp())...)
}

// noteShims remembers the IDs of the shims there are, which name cgroups too.
func (n *Node) noteShims() {
	shims, _ := filepath.Glob(filepath.Join(n.State, "shims", "*"))
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range shims {
		n.shims = append(n.shims, filepath.Base(s))
	}
}

// RemoveAll removes every pod, container and image through the CRI.
func (n *Node) RemoveAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), client.Bound(2*time.Minute))
	defer cancel()
	errs := []error{n.RemovePods(ctx, nil)}
	images, err := n.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	errs = append(errs, err)
	for _, i := range images.GetImages() {
		errs = append(errs, n.RemoveImage(ctx, i.GetId()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove all pods and images: %w", err)
	}
	return nil
}

// processesLeft waits for the shims to leave and tells what stays.
func (n *Node) processesLeft() error {
	n.mu.Lock()
	alone := n.alone
	n.mu.Unlock()
	select {
	case <-alone:
		return nil
	case <-time.After(n.patience):
	}
	ps, err := n.Descendants()
	if len(ps) > 0 {
		err = fmt.Errorf("processes left after %v:\n%s", n.patience, strings.Join(ps, "\n"))
	}
	return err
}

// Leaks tells what of pods is on the machine while there should be none.
func (n *Node) Leaks() error {
	var left []string
	add := func(kind string, names []string, err error) {
		if err != nil {
			left = append(left, fmt.Sprintf("%s: %v", kind, err))
		}
		for _, name := range names {
			left = append(left, kind+" "+name)
		}
	}
	mounts, err := mountsBelow(n.Dir)
	add("mount", mounts, err)
	ports, err := bridgePorts(n.Bridge)
	add("network device", ports, err)
	for _, family := range []string{"iptables", "ip6tables"} {
		rules, err := n.rulesLeft(family)
		add(family+" rule", rules, err)
	}
	add("cgroup", n.cgroupsLeft(), nil)
	files, err := n.filesLeft()
	add("file", files, err)
	if len(left) > 0 {
		return fmt.Errorf("left on the machine:\n%s", strings.Join(left, "\n"))
	}
	return nil
}

// rulesLeft are the NAT rules that name our subnet or one of our pods.
func (n *Node) rulesLeft(family string) ([]string, error) {
	rules, err := natRules(family)
	if err != nil {
		return nil, err
	}
	ids := n.Pods()
	prefix := strings.TrimSuffix(n.Subnet, "0/24")
	var out []string
	for line := range strings.Lines(rules) {
		ours := strings.Contains(line, prefix)
		for _, id := range ids {
			ours = ours || strings.Contains(line, id)
		}
		if ours {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out, nil
}

// Pods are the IDs of all pods there ever were.
func (n *Node) Pods() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.pods...)
}

// cgroupsLeft are cgroups that are named after our pods, by our tests or for our shims.
func (n *Node) cgroupsLeft() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	ofShims := shimapi.ShimCgroup(n.State)
	for _, c := range berthCgroups() {
		ours := strings.Contains(c, n.CgroupMark) || filepath.Base(c) == ofShims
		for _, id := range n.pods {
			ours = ours || len(id) >= 13 && strings.Contains(c, id[:13])
		}
		for _, id := range n.shims {
			ours = ours || strings.Contains(c, id)
		}
		if ours && !n.before.Cgroups[c] {
			out = append(out, c)
		}
	}
	return out
}

// filesLeft are the records, leases and layers below the node's directories.
func (n *Node) filesLeft() ([]string, error) {
	var out []string
	for _, pattern := range []string{
		n.Root + "/pods/*", n.Root + "/quarantine/*", n.Root + "/layers/[0-9a-f]*", n.Root + "/cni/pods/*", n.Root + "/cni/results/*",
		n.State + "/pods/*", n.State + "/containers/*", n.State + "/shims/*",
		n.State + "/s/*", n.State + "/runc/*/[^.]*", // of foreign runtimes; crun keeps its seccomp filters in .cache
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	leases, err := filepath.Glob(n.Dir + "/leases/*/[0-9]*")
	return append(out, leases...), err
}

// cleanUp removes everything of the node whatever state it is in.
func (n *Node) cleanUp() error {
	var errs []error
	if n.watch != nil {
		errs = append(errs, n.watch.Close())
	}
	if n.notify != nil {
		errs = append(errs, n.notify.Close())
	}
	errs = append(errs, n.saveLog(), n.cleanNetwork())
	for _, c := range n.cgroupsLeft() {
		errs = append(errs, removeCgroups(c))
	}
	mounts, err := mountsBelow(n.Dir)
	errs = append(errs, err)
	for _, m := range mounts {
		errs = append(errs, unix.Unmount(m, unix.MNT_DETACH))
	}
	if n.opt.Tmpfs {
		_ = unix.Unmount(n.Dir, unix.MNT_DETACH) // not mounted: fine
	}
	if n.Dir != "" {
		errs = append(errs, os.RemoveAll(n.Dir))
	}
	return errors.Join(errs...)
}

func (n *Node) saveLog() error {
	dir := os.Getenv("BERTH_TEST_LOGS")
	if dir == "" || n.Dir == "" {
		return nil
	}
	data, err := os.ReadFile(n.LogFile)
	if err != nil {
		return nil //nolint:nilerr // the daemon was never started
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(n.Dir)+".log"), data, 0o644)
}

func (n *Node) cleanNetwork() error {
	if n.Bridge == "" || n.before.Cgroups == nil {
		return nil // it was not looked at before
	}
	var errs []error
	ports, err := bridgePorts(n.Bridge)
	errs = append(errs, err)
	for _, p := range ports {
		errs = append(errs, removeLink(p))
	}
	errs = append(errs, removeLink(n.Bridge))
	for _, family := range []string{"iptables", "ip6tables"} {
		errs = append(errs, n.removeRules(family))
	}
	if onlyBridge() {
		errs = append(errs, os.WriteFile(forwardFile, n.before.Forward, 0o644))
		if !n.before.HostPort {
			errs = append(errs, removeHostPortChains("iptables"), removeHostPortChains("ip6tables"))
		}
	}
	return errors.Join(errs...)
}

// removeRules removes our rules from chains that are not ours; the chains they
// lead to stay without a reference when the plugin failed, which is rare.
func (n *Node) removeRules(family string) error {
	rules, err := n.rulesLeft(family)
	for _, r := range rules {
		if args, ok := strings.CutPrefix(r, "-A "); ok {
			c := exec.Command("sh", "-c", family+" -t nat -D "+args)
			err = errors.Join(err, c.Run())
		}
	}
	return err
}

// removeCgroups removes a cgroup with those below it, deepest first.
func removeCgroups(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if rerr := os.Remove(dirs[i]); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
