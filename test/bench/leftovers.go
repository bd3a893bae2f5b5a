package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// alive is false for a daemon that never started or has ended.
func (r *runtimeUnderTest) alive() bool {
	if r.exited == nil || r.cri == nil {
		return false
	}
	select {
	case <-r.exited:
		return false
	default:
		return true
	}
}

// version is the runtime's name and version as CRI tells it.
func (r *runtimeUnderTest) version(ctx context.Context) string {
	v, err := r.cri.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return err.Error()
	}
	return v.GetRuntimeName() + " " + v.GetRuntimeVersion()
}

// printLeftovers tells what a runtime without pods still holds. All of it ends
// with the namespaces; it is printed because on a node it would stay.
func (r *runtimeUnderTest) printLeftovers(ctx context.Context) {
	left := slices.Concat(r.leftProcesses(), r.leftMounts(), r.leftLinks(), r.leftCgroups(), r.leftFiles(), r.leftRules(ctx))
	if len(left) == 0 {
		fmt.Fprintf(os.Stderr, "bench: %s left nothing after its last pod\n", r.name)
		return
	}
	const most = 20
	fmt.Fprintf(os.Stderr, "bench: %s left %d things after its last pod:\n", r.name, len(left))
	for _, l := range left[:min(most, len(left))] {
		fmt.Fprintln(os.Stderr, "  ", l)
	}
}

// leftProcesses are those of pods; a shared shim that waits for pods is not one.
func (r *runtimeUnderTest) leftProcesses() []string {
	var left []string
	for _, p := range r.processes() {
		shared := p.kind == kindShim && r.name != nameContainerd
		if p.kind != kindDaemon && !shared {
			left = append(left, fmt.Sprintf("process %d (%s)", p.pid, p.comm))
		}
	}
	return left
}

func (r *runtimeUnderTest) leftMounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], r.dir+"/") {
			left = append(left, "mount "+fields[4])
		}
	}
	return left
}

// leftLinks are the ports of the runtime's bridge.
func (r *runtimeUnderTest) leftLinks() []string {
	links, err := netlink.LinkList()
	if err != nil {
		return []string{err.Error()}
	}
	bridge := 0
	for _, l := range links {
		if l.Attrs().Name == r.bridge {
			bridge = l.Attrs().Index
		}
	}
	var left []string
	for _, l := range links {
		if bridge != 0 && l.Attrs().MasterIndex == bridge {
			left = append(left, "link "+l.Attrs().Name)
		}
	}
	return left
}

func (r *runtimeUnderTest) leftCgroups() []string {
	var left []string
	for _, dir := range cgroupDirs(r.cgroup) {
		// The pods' own cgroups are the bench's, as they are the kubelet's.
		if depth := strings.Count(strings.SplitN(dir, r.cgroup, 2)[1], "/"); depth > 1 {
			left = append(left, "cgroup "+dir)
		}
	}
	return left
}

// leftFiles are address leases and names of network namespaces.
func (r *runtimeUnderTest) leftFiles() []string {
	leases, _ := filepath.Glob(filepath.Join(r.dir, "ipam", r.bridge, "[0-9]*"))
	namespaces, _ := filepath.Glob("/run/netns/*")
	own, _ := filepath.Glob(filepath.Join(r.dir, "state/pods/*"))
	return slices.Concat(leases, namespaces, own)
}

// leftRules are netfilter rules that name the runtime's network.
func (r *runtimeUnderTest) leftRules(ctx context.Context) []string {
	path, err := exec.LookPath("iptables")
	if err != nil {
		return nil
	}
	rules, err := r.children.output(exec.CommandContext(ctx, path, "-w", "-t", "nat", "-S"))
	if err != nil {
		return nil
	}
	var left []string
	for line := range strings.Lines(rules) {
		if strings.Contains(line, `name: \"`+r.bridge+`\"`) {
			left = append(left, "rule "+strings.TrimSpace(line))
		}
	}
	return left
}
