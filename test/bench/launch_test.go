package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestConfigurationsParse(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable() // stands for the daemon: it is only looked up
	if err != nil {
		t.Fatal(err)
	}
	opts := options{berthd: self, containerd: self}
	for i, name := range []string{nameBerth, nameContainerd} {
		p := place{dir: filepath.Join(dir, name), root: filepath.Join(dir, name, "root"), registry: "127.0.0.1:5000", cniBin: "/cni", index: i}
		r, err := prepare(name, opts, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		conf, err := os.ReadFile(filepath.Join(r.dir, "net.d/10-bench.conflist"))
		if err != nil || !json.Valid(conf) {
			t.Errorf("%s: conflist is not JSON (%v):\n%s", name, err, conf)
		}
		for _, file := range []string{"certs.d/127.0.0.1:5000/hosts.toml", "config.toml"} {
			if name == nameBerth && file == "config.toml" {
				continue
			}
			var tree map[string]any
			if _, err := toml.DecodeFile(filepath.Join(r.dir, file), &tree); err != nil {
				t.Errorf("%s: %s: %v", name, file, err)
			}
		}
	}
}

// TestSubnets: each runtime and the floors have a subnet of their own.
func TestSubnets(t *testing.T) {
	seen := map[string]bool{}
	for _, index := range []int{0, 1, 2, floorIndex} {
		var list struct {
			Plugins []struct {
				IPAM struct {
					Ranges [][]struct {
						Subnet netip.Prefix `json:"subnet"`
					} `json:"ranges"`
				} `json:"ipam"`
			} `json:"plugins"`
		}
		if err := json.Unmarshal([]byte(conflist("bridge", place{index: index})), &list); err != nil {
			t.Fatalf("index %d: %v", index, err)
		}
		subnet := list.Plugins[0].IPAM.Ranges[0][0].Subnet.Masked().String()
		if seen[subnet] {
			t.Errorf("index %d: %s is another's, too", index, subnet)
		}
		seen[subnet] = true
	}
}

func TestMissingDaemonSaysWhatToDo(t *testing.T) {
	_, err := prepare(nameBerth, options{berthd: "/nowhere/berthd"}, place{dir: t.TempDir(), root: t.TempDir(), registry: "r"}, nil)
	if err == nil {
		t.Fatal("a berthd that is not there was accepted")
	}
	t.Log(err)
}

func TestOptions(t *testing.T) {
	for _, bad := range [][]string{{"-n", "0"}, {"-only", "("}, {"-berth-only", "-containerd-only"}, {"run"}} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	opts, err := parseOptions([]string{"pull", "-quick", "-only", "200m"})
	if err != nil {
		t.Fatal(err)
	}
	if opts.mode != "pull" || opts.pulls != 1 || !opts.only.MatchString("200m") || len(opts.runtimes) != 2 {
		t.Errorf("pull -quick -only 200m: %+v", opts)
	}
}

func TestProcessTree(t *testing.T) {
	r := &runtimeUnderTest{name: nameBerth, dir: "/run/bench/berth"}
	all := map[int]rawProcess{
		2: {ppid: 1, marked: nameBerth, comm: "berthd"},
		3: {ppid: 1, marked: nameContainerd, comm: "containerd"},
		4: {ppid: 1, comm: "berth-shim", cmdline: "berth-shim --state /run/bench/berth/state"},
		5: {ppid: 4, comm: "pause"},
		6: {ppid: 4, comm: "sleep", cmdline: "/bin/sleep " + workloadMark},
		7: {ppid: 3, comm: "pause"},
		8: {ppid: 1, comm: "curl"},
	}
	want := map[int]kind{2: kindPod, 4: kindShim, 5: kindPod, 6: kindWorkload}
	for pid, p := range all {
		k, ours := want[pid]
		if r.owns(all, pid) != ours {
			t.Errorf("process %d (%s) ours: %v, want %v", pid, p.comm, !ours, ours)
		}
		if ours && r.kindOf(pid, p) != k {
			t.Errorf("process %d (%s) is of kind %d, want %d", pid, p.comm, r.kindOf(pid, p), k)
		}
	}
}
