package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/cni"
	"berth/server/config"
)

// checks are made in this order, what everything depends on first.
var checks = []check{
	{"configuration", checkConfig},
	{"user", checkUser},
	{"kernel", checkKernel},
	{"capabilities", checkCapabilities},
	{"cgroups", checkCgroups},
	{"overlay", checkOverlay},
	{"propagation", checkPropagation},
	{"disk", checkDisk},
	{"security", checkSecurity},
	{"user ns", checkUserNS},
	{"devices", checkDevices},
	{"shim", checkShim},
	{"runtimes", checkRuntimes},
	{"network", checkNetwork},
	{"packet filter", checkPacketFilter},
	{"socket", checkSocket},
}

func checkConfig(_ context.Context, m machine) Finding {
	if m.read != nil {
		return broken(oneLine(m.read), "mend these files; the other checks are made with what could be read")
	}
	if err := m.cfg.Check(); err != nil {
		return broken(oneLine(err), "change these keys of the configuration")
	}
	read, ignored, err := config.DropIns(m.file)
	if err != nil {
		return broken(err.Error(), "make the directory readable for root")
	}
	seen := fmt.Sprintf("root %s, state %s", m.cfg.Root, m.cfg.State)
	if len(read) > 0 {
		seen += ", with " + strings.Join(read, ", ")
	}
	if len(ignored) > 0 {
		return limited(seen+"; not read: "+strings.Join(ignored, ", "), "let their names end with .toml, or move them elsewhere")
	}
	return fine("%s", seen)
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func checkUser(context.Context, machine) Finding {
	if uid := os.Geteuid(); uid != 0 {
		return broken(fmt.Sprintf("this runs as uid %d", uid), "run berthd, and this check, as root")
	}
	return fine("root")
}

// The oldest kernel: openat2, by which unpacking never leaves its root, is of 5.6.
const oldestMajor, oldestMinor = 5, 6

func checkKernel(context.Context, machine) Finding {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return broken(err.Error(), "allow uname(2)")
	}
	return kernelOf(unix.ByteSliceToString(uts.Release[:]), func(namespace string) bool {
		_, err := os.Stat("/proc/self/ns/" + namespace)
		return err == nil
	})
}

// kernelOf judges a kernel by its release and the namespaces that it has.
func kernelOf(release string, has func(namespace string) bool) Finding {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return limited("release "+release+" can't be read", fmt.Sprintf("make sure it is %d.%d or later", oldestMajor, oldestMinor))
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return broken("Linux "+release, fmt.Sprintf("boot %d.%d or later (openat2, pidfd)", oldestMajor, oldestMinor))
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		if !has(ns) {
			return broken("no "+ns+" namespaces", "boot a kernel that is built with them")
		}
	}
	return fine("Linux %s", release)
}

// needed are the capabilities without which no container starts, and wanted
// those berthd can do without, with what is lost.
var (
	needed = []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
		"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SETFCAP", "CAP_SYS_CHROOT", "CAP_MKNOD"}
	wanted = map[string]string{
		"CAP_SYS_RESOURCE":     "oom_score_adj can't be lowered, rlimits not raised",
		"CAP_SYS_PTRACE":       "processes of user namespaces can't be looked at",
		"CAP_NET_RAW":          "pods have no raw sockets (ping)",
		"CAP_AUDIT_WRITE":      "containers can't write audit records",
		"CAP_NET_BIND_SERVICE": "host-network containers can't use ports below 1024",
	}
)

func checkCapabilities(_ context.Context, m machine) Finding {
	if m.hostErr != nil && len(m.host.Capabilities) == 0 {
		return broken(m.hostErr.Error(), "mount /proc")
	}
	var missing, lost []string
	for _, c := range needed {
		if !slices.Contains(m.host.Capabilities, c) {
			missing = append(missing, c)
		}
	}
	for c, effect := range wanted {
		if !slices.Contains(m.host.Capabilities, c) {
			lost = append(lost, c+" is missing: "+effect)
		}
	}
	slices.Sort(lost)
	switch {
	case len(missing) > 0:
		return broken("missing: "+strings.Join(missing, ", "), "give them to berthd's unit or container")
	case len(lost) > 0:
		return limited(strings.Join(lost, "; "), "give it to berthd's unit or container, if pods need it")
	}
	return fine("%d held", len(m.host.Capabilities))
}

func checkCgroups(_ context.Context, m machine) Finding {
	if m.hostErr != nil {
		return broken(m.hostErr.Error(), "mount the cgroup filesystems, as systemd or cgroupfs-mount do")
	}
	version := "v1"
	if m.host.CgroupV2 {
		version = "v2"
	}
	driver := "cgroupfs"
	if m.host.SystemdCgroup && m.cfg.CgroupDriver == "" || m.cfg.CgroupDriver == "systemd" {
		driver = "systemd"
	}
	var missing []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !m.host.Controllers[c] {
			missing = append(missing, c)
		}
	}
	seen := fmt.Sprintf("%s, driver %s", version, driver)
	if len(missing) > 0 {
		return limited(seen+", no "+strings.Join(missing, ", ")+" controller: those limits are not set", "enable it on the kernel's command line, or in the parent's cgroup.subtree_control")
	}
	return fine("%s", seen)
}

// checkOverlay mounts one: a kernel may have overlayfs and a filesystem below
// the root directory that does not suit it.
func checkOverlay(_ context.Context, m machine) Finding {
	dir, err := os.MkdirTemp(existing(m.cfg.Root), ".berth-check")
	if err != nil {
		return broken(err.Error(), "let root be on a filesystem that can be written")
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return broken(err.Error(), "free some space")
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return broken(fmt.Sprintf("can't be mounted on %s: %v", existing(m.cfg.Root), err),
			"load the module overlay, and put root on ext4, xfs (ftype=1) or btrfs, not on an overlay")
	}
	if err := unix.Unmount(merged, unix.MNT_DETACH); err != nil {
		return limited("the mount of this check stays: "+err.Error(), "unmount "+merged)
	}
	return fine("works on %s", existing(m.cfg.Root))
}

// existing is path or its nearest parent that exists.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func checkPropagation(context.Context, machine) Finding {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return broken(err.Error(), "mount /proc")
	}
	defer table.Close()
	return propagationOf(table)
}

// propagationOf judges the mount of / in a table of mounts (proc_pid_mountinfo(5)):
// the last one hides those before it.
func propagationOf(table io.Reader) Finding {
	mounts, err := mountinfo.GetMountsFromReader(table, func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != "/", false })
	if err != nil {
		return broken(err.Error(), "mount /proc")
	}
	if len(mounts) == 0 || !strings.Contains(mounts[len(mounts)-1].Optional, "shared:") {
		return limited("/ is a private mount: Bidirectional and HostToContainer volumes see no later mounts", "mount --make-rshared /")
	}
	return fine("/ is shared")
}

// Free space and inodes, in percent, below which the kubelet evicts pods by default.
const lowDiskPercent, lowInodePercent = 15, 5

func checkDisk(_ context.Context, m machine) Finding {
	var st unix.Statfs_t
	dir := existing(m.cfg.Root)
	if err := unix.Statfs(dir, &st); err != nil {
		return broken(err.Error(), "put root on a filesystem that can be read")
	}
	return diskOf(dir, st)
}

// diskOf judges the space and the inodes that are free on the filesystem of dir.
func diskOf(dir string, st unix.Statfs_t) Finding {
	free := 100 * st.Bavail / max(st.Blocks, 1)
	seen := fmt.Sprintf("%s has %d GiB free (%d %%)", dir, st.Bavail*uint64(st.Bsize)>>30, free)
	if st.Files > 0 && 100*st.Ffree/st.Files < lowInodePercent {
		return limited(seen+" and few inodes", "make room: the kubelet will evict pods")
	}
	if free < lowDiskPercent {
		return limited(seen, "make room: the kubelet will evict pods")
	}
	return fine("%s", seen)
}

func checkSecurity(_ context.Context, m machine) Finding {
	var have, lack []string
	for _, layer := range []struct {
		name string
		on   bool
	}{{"seccomp", m.host.Seccomp}, {"AppArmor", m.host.AppArmor}, {"SELinux", m.host.SELinux}} {
		if layer.on {
			have = append(have, layer.name)
		} else {
			lack = append(lack, layer.name)
		}
	}
	seen := strings.Join(have, ", ") + "; not on this host: " + strings.Join(lack, ", ")
	switch {
	case !m.host.Seccomp:
		return limited(seen, "boot a kernel with seccomp: RuntimeDefault profiles can't be applied")
	case m.host.AppArmor && !hasProgram("apparmor_parser"):
		return limited(seen+"; no apparmor_parser", "install the package apparmor: containers with the profile RuntimeDefault are refused")
	case m.host.SELinux && m.host.Labels.Process == "":
		return limited(seen+"; its policy has no types for containers", "install the policy's module for containers, which brings lxc_contexts: containers run without labels")
	case !m.host.AppArmor && !m.host.SELinux:
		return fine("%s (pods that ask for them are refused)", seen)
	}
	return fine("%s", seen)
}

func hasProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func checkUserNS(_ context.Context, m machine) Finding {
	switch {
	case !m.host.UserNS:
		return limited("no user namespaces: pods with hostUsers: false are refused", "set sysctl user.max_user_namespaces above 0")
	case !m.host.IDMap:
		return limited("no idmapped mounts: volumes of pods with hostUsers: false are refused", "boot Linux 5.19 or later")
	}
	return fine("usable, with idmapped mounts")
}

// shimPath is where berth-shim is looked for.
func shimPath(m machine) (string, error) {
	if m.cfg.ShimBinary != "" {
		return m.cfg.ShimBinary, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "berth-shim")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return exec.LookPath("berth-shim")
}

func checkShim(_ context.Context, m machine) Finding {
	path, err := shimPath(m)
	if err != nil {
		return broken("berth-shim is neither beside this program nor in PATH", "install it, or name it with shim_binary")
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return broken(fmt.Sprintf("%s: %v", path, err), "install berth-shim there, executable")
	}
	return fine("%s", path)
}

func checkNetwork(_ context.Context, m machine) Finding {
	network, err := cni.New(cni.Options{ConfDir: m.cfg.CNIConfDir, BinDirs: m.cfg.CNIBinDir, CacheDir: filepath.Join(m.cfg.Root, "cni")})
	if err != nil {
		return broken(err.Error(), "mend the cni_… keys of the configuration")
	}
	defer network.Close() //nolint:errcheck // only looked at
	if err := network.Ready(); err != nil {
		if m.cfg.DefaultNetwork {
			return fine("the built-in bridge, as %s has no usable configuration", m.cfg.CNIConfDir)
		}
		return limited(err.Error(), "only host-network pods run until then")
	}
	return fine("configured in %s", m.cfg.CNIConfDir)
}

func checkPacketFilter(context.Context, machine) Finding {
	var found []string
	for _, program := range []string{"iptables", "nft"} {
		if _, err := exec.LookPath(program); err == nil {
			found = append(found, program)
		}
	}
	if len(found) == 0 {
		return limited("neither iptables nor nft is in PATH: the usual plugins can't masquerade or map host ports", "install iptables or nftables")
	}
	return fine("%s", strings.Join(found, ", "))
}

// answerTimeout is how long a daemon may take to accept a connection.
const answerTimeout = time.Second

func checkSocket(ctx context.Context, m machine) Finding {
	path := m.cfg.SocketPath()
	conn, err := (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fine("a server answers at %s", path)
	case errors.Is(err, unix.ENOENT):
		return fine("%s is free, berthd is not running", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return limited(path+" was left by a daemon that is gone", "start berthd, it will replace it")
	}
	return limited(err.Error(), "run this as root, or name another path with listen")
}
