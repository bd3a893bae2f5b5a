package hostcheck

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci"
	"berth/server/config"
)

// wantFinding fails unless a finding has a level and says what was seen.
func wantFinding(t *testing.T, what string, got Finding, level Level, seen string) {
	t.Helper()
	if got.Level != level || !strings.Contains(got.Seen, seen) {
		t.Errorf("%s: got %v, %q; want %v and %q", what, got.Level, got.Seen, level, seen)
	}
	if (got.Level == Fine) != (got.Do == "") {
		t.Errorf("%s: %v with the advice %q: advice is for what is not fine", what, got.Level, got.Do)
	}
}

func TestPropagation(t *testing.T) {
	const private = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
	const shared = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
	const other = "22 21 0:5 / /dev rw shared:2 - tmpfs shared: rw\n"
	for table, want := range map[string]Level{
		private: Limited, shared: Fine, private + other: Limited, private + shared: Fine, shared + private: Limited,
		"": Limited, "no table\n": Broken,
	} {
		wantFinding(t, table, propagationOf(strings.NewReader(table)), want, "")
	}
}

func TestKernel(t *testing.T) {
	all := func(string) bool { return true }
	for name, c := range map[string]struct {
		release string
		has     func(string) bool
		level   Level
		seen    string
	}{
		"new":            {"6.18.44-rc1", all, Fine, "Linux 6.18.44-rc1"},
		"oldest":         {"5.6", all, Fine, "Linux 5.6"},
		"too old":        {"5.4.0-150-generic", all, Broken, "5.4.0"},
		"much too old":   {"4.19.0", all, Broken, "4.19.0"},
		"no number":      {"unknown", all, Limited, "can't be read"},
		"without ipc":    {"6.1.0", func(ns string) bool { return ns != "ipc" }, Broken, "no ipc namespaces"},
		"without any ns": {"6.1.0", func(string) bool { return false }, Broken, "no net namespaces"},
	} {
		wantFinding(t, name, kernelOf(c.release, c.has), c.level, c.seen)
	}
}

func TestDisk(t *testing.T) {
	const gib = 1 << 30 / 4096
	whole := unix.Statfs_t{Bsize: 4096, Blocks: 100 * gib, Bavail: 50 * gib, Files: 1000, Ffree: 500}
	full, inodes, unlimited := whole, whole, whole
	full.Bavail = 14 * gib
	inodes.Ffree = 49
	unlimited.Files, unlimited.Ffree = 0, 0 // as btrfs has it
	for name, c := range map[string]struct {
		st    unix.Statfs_t
		level Level
		seen  string
	}{
		"room":              {whole, Fine, "/var has 50 GiB free (50 %)"},
		"full":              {full, Limited, "14 GiB free (14 %)"},
		"few inodes":        {inodes, Limited, "and few inodes"},
		"uncounted inodes":  {unlimited, Fine, "50 GiB"},
		"nothing is there":  {unix.Statfs_t{}, Limited, "0 GiB free (0 %)"},
		"reserved for root": {unix.Statfs_t{Bsize: 4096, Blocks: 100 * gib, Bfree: 50 * gib}, Limited, "(0 %)"},
	} {
		wantFinding(t, name, diskOf("/var", c.st), c.level, c.seen)
	}
}

// The checks that judge what berthd finds out about the host.
func TestHostFacts(t *testing.T) {
	failed := errors.New("no /sys/fs/cgroup")
	all := append(append([]string{}, needed...), "CAP_SYS_RESOURCE", "CAP_SYS_PTRACE", "CAP_NET_RAW", "CAP_AUDIT_WRITE", "CAP_NET_BIND_SERVICE")
	controllers := map[string]bool{"cpu": true, "cpuset": true, "memory": true, "pids": true}
	systemd := here(t)
	systemd.CgroupDriver = "systemd"
	for name, c := range map[string]struct {
		check string
		m     machine
		level Level
		seen  string
	}{
		"all capabilities":      {"capabilities", machine{host: oci.Host{Capabilities: all}}, Fine, "18 held"},
		"those that are needed": {"capabilities", machine{host: oci.Host{Capabilities: needed}}, Limited, "CAP_NET_RAW is missing: pods have no raw sockets"},
		"one is missing":        {"capabilities", machine{host: oci.Host{Capabilities: all[1:]}}, Broken, "missing: CAP_SYS_ADMIN"},
		"none can be read":      {"capabilities", machine{hostErr: failed}, Broken, "no /sys/fs/cgroup"},
		"another error":         {"capabilities", machine{host: oci.Host{Capabilities: all}, hostErr: failed}, Fine, "held"},
		"v1":                    {"cgroups", machine{host: oci.Host{Controllers: controllers}}, Fine, "v1, driver cgroupfs"},
		"v2 with systemd":       {"cgroups", machine{host: oci.Host{CgroupV2: true, SystemdCgroup: true, Controllers: controllers}}, Fine, "v2, driver systemd"},
		"systemd is asked for":  {"cgroups", machine{cfg: systemd, host: oci.Host{Controllers: controllers}}, Fine, "v1, driver systemd"},
		"no controllers":        {"cgroups", machine{host: oci.Host{CgroupV2: true}}, Limited, "no cpu, cpuset, memory, pids controller"},
		"no cgroups":            {"cgroups", machine{hostErr: failed}, Broken, "no /sys/fs/cgroup"},
		"seccomp and SELinux":   {"security", machine{host: oci.Host{Seccomp: true, SELinux: true, Labels: oci.Labels{Process: "u:r:container_t:s0"}}}, Fine, "seccomp, SELinux; not on this host: AppArmor"},
		"SELinux without types": {"security", machine{host: oci.Host{Seccomp: true, SELinux: true}}, Limited, "no types for containers"},
		"seccomp alone":         {"security", machine{host: oci.Host{Seccomp: true}}, Fine, "pods that ask for them are refused"},
		"no seccomp":            {"security", machine{host: oci.Host{SELinux: true}}, Limited, "not on this host: seccomp, AppArmor"},
		"user namespaces":       {"user ns", machine{host: oci.Host{UserNS: true, IDMap: true}}, Fine, "usable"},
		"without idmapping":     {"user ns", machine{host: oci.Host{UserNS: true}}, Limited, "no idmapped mounts"},
		"no user namespaces":    {"user ns", machine{host: oci.Host{IDMap: true}}, Limited, "no user namespaces"},
	} {
		for _, one := range checks {
			if one.what == c.check {
				wantFinding(t, name, one.look(t.Context(), c.m), c.level, c.seen)
			}
		}
	}
}

// AppArmor is of use only with the program that loads its profiles.
func TestAppArmorNeedsItsParser(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	m := machine{host: oci.Host{Seccomp: true, AppArmor: true}}
	wantFinding(t, "without apparmor_parser", checkSecurity(t.Context(), m), Limited, "no apparmor_parser")
	program(t, filepath.Join(dir, "apparmor_parser"))
	wantFinding(t, "with apparmor_parser", checkSecurity(t.Context(), m), Fine, "seccomp, AppArmor; not on this host: SELinux")
}

func program(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestPacketFilter(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	wantFinding(t, "neither", checkPacketFilter(t.Context(), machine{}), Limited, "neither iptables nor nft is in PATH")
	program(t, filepath.Join(dir, "nft"))
	wantFinding(t, "nft", checkPacketFilter(t.Context(), machine{}), Fine, "nft")
	program(t, filepath.Join(dir, "iptables"))
	wantFinding(t, "both", checkPacketFilter(t.Context(), machine{}), Fine, "iptables, nft")
}

// The shim is the one that is configured, or else one in PATH.
func TestShim(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	cfg := here(t)
	wantFinding(t, "nowhere", checkShim(t.Context(), machine{cfg: cfg}), Broken, "neither beside this program nor in PATH")
	program(t, filepath.Join(dir, "berth-shim"))
	wantFinding(t, "in PATH", checkShim(t.Context(), machine{cfg: cfg}), Fine, filepath.Join(dir, "berth-shim"))
	cfg.ShimBinary = filepath.Join(dir, "none")
	wantFinding(t, "configured and missing", checkShim(t.Context(), machine{cfg: cfg}), Broken, "none: no such file")
	cfg.ShimBinary = filepath.Join(dir, "text")
	if err := os.WriteFile(cfg.ShimBinary, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "not executable", checkShim(t.Context(), machine{cfg: cfg}), Broken, "permission denied")
}

// What may be at the path of the socket.
func TestSocket(t *testing.T) {
	cfg := here(t)
	path := cfg.SocketPath()
	look := func() Finding { return checkSocket(t.Context(), machine{cfg: cfg}) }
	wantFinding(t, "nothing", look(), Fine, path+" is free")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "a server", look(), Fine, "a server answers at "+path)
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "a socket that nobody serves", look(), Limited, "was left by a daemon that is gone")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, path); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "a link to itself", look(), Limited, "symbolic links")
}

func TestNetwork(t *testing.T) {
	cfg := here(t)
	look := func() Finding { return checkNetwork(t.Context(), machine{cfg: cfg}) }
	if err := os.MkdirAll(cfg.CNIConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "no configuration", look(), Limited, "not ready")
	cfg.DefaultNetwork = true
	wantFinding(t, "the default network", look(), Fine, "the built-in bridge")
}

func TestOverlay(t *testing.T) {
	cfg := here(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Root = file
	wantFinding(t, "root is a file", checkOverlay(t.Context(), machine{cfg: cfg}), Broken, "not a directory")
}

func TestExisting(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir: dir, filepath.Join(dir, "a"): dir, filepath.Join(dir, "a", "b"): dir, "/": "/", "/none/at/all": "/",
	} {
		if got := existing(path); got != want {
			t.Errorf("existing(%q) = %q, want %q", path, got, want)
		}
	}
}

// What is printed of a finding can't act on a terminal.
func TestWriteEscapes(t *testing.T) {
	var out strings.Builder
	worst, err := Write(&out, []Finding{{Level: Limited, What: "network", Seen: "x\x1b[2J\ny", Do: "mend it"}, {What: "user", Seen: "root"}})
	if err != nil || worst != Limited {
		t.Errorf("Write: worst is %v, error %v; want %v and none", worst, err, Limited)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 3 || strings.Contains(out.String(), "\x1b") || !strings.HasSuffix(lines[0], " → mend it") || lines[1] != "ok       user          root" {
		t.Errorf("printed %q, want two lines and no escape", out.String())
	}
}

// TestRuntimes: of each handler the program is named that can't be run, and of those that do
// not tell what they can do, what they go without.
func TestRuntimes(t *testing.T) {
	dir, cfg := t.TempDir(), here(t)
	look := func() Finding { return checkRuntimes(t.Context(), machine{cfg: cfg}) }
	wantFinding(t, "no table", look(), Fine, "the built-in one alone")
	cfg.ShimBinary = filepath.Join(dir, "berth-shim")
	cfg.Runtimes = map[string]config.Runtime{"own": {Type: config.Builtin}}
	wantFinding(t, "a built-in one", look(), Fine, "own, and the built-in one")
	cfg.Runtimes["a"] = config.Runtime{Type: config.ShimV2, Shim: filepath.Join(dir, "shim-a")}
	wantFinding(t, "no shim", look(), Limited, `runtime handler "a": its shim can't be run: `)
	program(t, filepath.Join(dir, "shim-a"))
	wantFinding(t, "no driver", look(), Limited, "install it beside berth-shim")
	program(t, cfg.ShimBinary+"-v2") // says nothing
	wantFinding(t, "no answer", look(), Limited, `runtime handler "a": its shim `+filepath.Join(dir, "shim-a")+" does not tell what it can do")
	if err := os.WriteFile(cfg.ShimBinary+"-v2", []byte("#!/bin/sh\necho {}\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "an answer", look(), Fine, "a, own, and the built-in one")
	cfg.Runtimes["own"] = config.Runtime{Type: config.Builtin, Devices: []string{"/dev/full:/dev/given:rw"}}
	wantFinding(t, "a device", look(), Fine, "a, own, and the built-in one")
	for entry, want := range map[string]string{
		"/dev/none-such": "runtime.own.devices: stat /dev/none-such: no such file", "/dev/full": "each container has something of its own at /dev/full",
		"/dev/fd:/dev/given": "runtime.own.devices: /dev/fd is not a device",
	} {
		cfg.Runtimes["own"] = config.Runtime{Type: config.Builtin, Devices: []string{entry}}
		wantFinding(t, entry, look(), Limited, want)
	}
	cfg.Runtimes["own"] = config.Runtime{Type: config.ShimV2, Shim: filepath.Join(dir, "shim-a"), ShimCgroup: "/shims"}
	wantFinding(t, "a path as the shims' cgroup", look(), Fine, "a, own, and the built-in one")
	m := machine{cfg: cfg}
	m.host.SystemdCgroup = true
	wantFinding(t, "with systemd's driver", checkRuntimes(t.Context(), m), Limited, "runtime.own.shim_cgroup: /shims is no slice")
	if err := os.WriteFile(cfg.ShimBinary+"-v2", []byte("#!/bin/sh\necho option X is none of Y >&2; exit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, "options", look(), Limited, "option X is none of Y; change runtime.a.options in the configuration")
}
