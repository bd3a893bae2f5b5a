package node

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
)

// repository is the directory of berth's go.mod, at or above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module berth\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not started inside berth's repository")
		}
		dir = filepath.Dir(dir)
	}
}

const forwardFile = "/proc/sys/net/ipv4/ip_forward"

// machine is what of the whole machine a node changes for all.
type machine struct {
	Forward  []byte          `json:"forward"`  // ip_forward
	HostPort bool            `json:"hostPort"` // the portmap plugin's shared chains are there
	Cgroups  map[string]bool `json:"cgroups"`
}

func look() (machine, error) {
	m := machine{Cgroups: map[string]bool{}}
	var err error
	if m.Forward, err = os.ReadFile(forwardFile); err != nil {
		return m, err
	}
	rules, err := natRules("iptables")
	if err != nil {
		return m, err
	}
	m.HostPort = strings.Contains(rules, ":CNI-HOSTPORT-DNAT")
	for _, c := range berthCgroups() {
		m.Cgroups[c] = true
	}
	return m, nil
}

func natRules(family string) (string, error) {
	out, err := exec.Command(family+"-save", "-t", "nat").Output()
	return string(out), err
}

// berthCgroups are the cgroups that berth names by itself or tests name for it.
func berthCgroups() []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/berth*", "/sys/fs/cgroup/*/berth*"} {
		found, _ := filepath.Glob(pattern)
		out = append(out, found...)
	}
	return out
}

// mountsBelow lists mount points below dir, those mounted last first.
func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	var out []string
	for i := len(infos) - 1; i >= 0; i-- {
		out = append(out, infos[i].Mountpoint)
	}
	return out, err
}

// dumpTries bounds how often the list of links is asked for anew.
const dumpTries = 20

// bridgePorts are the host ends of veths on the bridge.
func bridgePorts(bridge string) ([]string, error) {
	br, err := netlink.LinkByName(bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	links, err := netlink.LinkList()
	for range dumpTries {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		links, err = netlink.LinkList() // a link came or went meanwhile, of whomever
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range links {
		if l.Attrs().MasterIndex == br.Attrs().Index {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

// onlyBridge tells whether no bridge but ours can depend on shared settings.
func onlyBridge() bool {
	links, err := netlink.LinkList()
	if err != nil {
		return false
	}
	for _, l := range links {
		if l.Type() == "bridge" {
			return false
		}
	}
	return true
}

var hostPortRule = regexp.MustCompile(`-j CNI-HOSTPORT-(DNAT|MASQ|SETMARK)\b`)

// removeHostPortChains removes what the portmap plugin makes once for all
// pods and never removes, unless a pod of anyone uses it.
func removeHostPortChains(family string) error {
	rules, err := natRules(family)
	if err != nil || strings.Contains(rules, ":CNI-DN-") {
		return err
	}
	var chains []string
	var in bytes.Buffer
	in.WriteString("*nat\n")
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, ":CNI-HOSTPORT-") {
			chains = append(chains, strings.Fields(line[1:])[0])
		}
		if strings.HasPrefix(line, "-A ") && hostPortRule.MatchString(line) {
			in.WriteString("-D " + line[3:] + "\n")
		}
	}
	if len(chains) == 0 {
		return nil
	}
	for _, verb := range []string{"-F ", "-X "} {
		for _, c := range chains {
			in.WriteString(verb + c + "\n")
		}
	}
	in.WriteString("COMMIT\n")
	c := exec.Command(family+"-restore", "--noflush")
	c.Stdin = &in
	out, err := c.CombinedOutput()
	if err != nil {
		return errors.New(family + "-restore: " + string(bytes.TrimSpace(out)))
	}
	return nil
}
