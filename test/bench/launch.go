package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"berth/test/client"
	"berth/test/peer"
)

// place is where a runtime under test lives and what it is served from.
type place struct {
	dir      string // its directory, on tmpfs
	root     string // its durable directory: dir/root, or one on the disk
	cgroup   string // parent of its pods' cgroups
	registry string // host:port
	cniBin   string
	index    int // picks bridge and subnet
	masq     bool
}

// prepare makes the directories and configuration of the named runtime.
func prepare(name string, opts options, p place, c *children) (*runtimeUnderTest, error) {
	r := &runtimeUnderTest{
		name: name, dir: p.dir, root: p.root, cgroup: p.cgroup, children: c,
		bridge: fmt.Sprintf("bench%d", p.index),
		socket: filepath.Join(p.dir, name+".sock"),
	}
	dirs := []string{p.root}
	for _, sub := range []string{"state", "net.d", "logs", filepath.Join("certs.d", p.registry)} {
		dirs = append(dirs, filepath.Join(p.dir, sub))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	files := map[string]string{
		"net.d/10-bench.conflist":                       conflist(r.bridge, p),
		filepath.Join("certs.d", p.registry, hostsFile): fmt.Sprintf(hostsTOML, p.registry),
	}
	switch name {
	case nameBerth:
		r.argv = berthArgv(opts.berthd, r.socket, p)
	case nameBefore:
		r.argv = berthArgv(opts.before, r.socket, p)
	case nameContainerd:
		files["config.toml"] = peer.Configuration(peer.Places{
			Dir: p.dir, Root: p.root, NetConf: filepath.Join(p.dir, "net.d"), CNI: p.cniBin, Pause: p.registry + "/pause:1",
		})
		r.argv = []string{opts.containerd, "--config", filepath.Join(p.dir, "config.toml"), "--log-level", "warn"}
	}
	if _, err := exec.LookPath(r.argv[0]); err != nil {
		return nil, missing(name, err)
	}
	for path, text := range files {
		if err := os.WriteFile(filepath.Join(p.dir, path), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// missing tells how to get a daemon that is not there.
func missing(name string, err error) error {
	if name == nameBerth {
		return fmt.Errorf("%w; run `make build`, or pass -containerd-only", err)
	}
	return fmt.Errorf("%w; run `make peers`, or pass -berth-only", err)
}

func berthArgv(binary, socket string, p place) []string {
	argv := []string{
		binary,
		"--root", p.root,
		"--state", filepath.Join(p.dir, "state"),
		"--listen", "unix://" + socket,
		"--cni-conf-dir", filepath.Join(p.dir, "net.d"),
		"--cni-bin-dir", p.cniBin,
		"--certs-dir", filepath.Join(p.dir, "certs.d"),
		"--cgroup-driver", "cgroupfs", // as containerd does without SystemdCgroup
		"--log-level", "0",
	}
	argv = append(argv, client.RuntimeFlags()...)
	if client.KnowsFlag(binary, "containerd-socket") { // the path is that of the containerd beside it
		argv = append(argv, "--containerd-socket", "off")
	}
	return argv
}

const hostsFile = "hosts.toml"

const hostsTOML = `server = "http://%[1]s"

[host."http://%[1]s"]
  capabilities = ["pull", "resolve"]
`

// firstSubnet is the second byte of the first runtime's subnet, which has room for the pods
// of a growth. That of the floors is the last there is.
const (
	firstSubnet = 250
	floorIndex  = 255 - firstSubnet
)

// conflist is the same chain for every runtime: bridge, host-local, portmap.
func conflist(bridge string, p place) string {
	const text = `{
  "cniVersion": "1.0.0",
  "name": "BRIDGE",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "BRIDGE",
      "isGateway": true,
      "ipMasq": MASQ,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "DIR/ipam",
        "ranges": [[{"subnet": "10.SUBNET.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
	return strings.NewReplacer("BRIDGE", bridge, "DIR", p.dir, "MASQ", fmt.Sprint(p.masq),
		"SUBNET", fmt.Sprint(firstSubnet+p.index)).Replace(text)
}

// findCNI gives the directory of the CNI plugins: the one asked for, or the
// first of the usual ones that has the bridge.
func findCNI(asked string) (string, error) {
	dirs := []string{asked}
	if asked == "" {
		local, err := filepath.Abs("bin/cni")
		if err != nil {
			return "", err
		}
		dirs = []string{local, "/opt/cni/bin", "/usr/lib/cni"}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no CNI plugin `bridge` in %s; install containernetworking-plugins or pass -cni-bin", strings.Join(dirs, ", "))
}
