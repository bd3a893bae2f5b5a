package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const cgroupRoot = "/sys/fs/cgroup"

// DetectHost looks at the machine and at this process's own privileges. Fields
// that are settings (CDIDirs, SeccompRoot) get their defaults, CreateSources is left
// false; AppArmorDefault is left to [LoadAppArmorDefault]. What can't be found out
// counts as missing; an error means that no container could run.
func DetectHost() (Host, error) {
	h := Host{
		Arch:        runtime.GOARCH,
		AppArmor:    fileStarts("/sys/module/apparmor/parameters/enabled", "Y"),
		Seccomp:     pathExists("/proc/sys/kernel/seccomp/actions_avail"),
		UserNS:      pathExists("/proc/self/ns/user") && !fileStarts("/proc/sys/user/max_user_namespaces", "0"),
		CDIDirs:     []string{"/etc/cdi", "/var/run/cdi"},
		SeccompRoot: "/var/lib/kubelet/seccomp",
	}
	for _, detect := range []func(*Host) error{detectKernel, detectSelf, detectCgroups, detectSELinux} {
		if err := detect(&h); err != nil {
			return h, err
		}
	}
	return h, nil
}

func detectKernel(h *Host) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	h.Kernel = parseKernel(unix.ByteSliceToString(uts.Release[:]))
	h.Hostname = unix.ByteSliceToString(uts.Nodename[:])
	// mount_setattr came with both; a sandboxed host may have the version but not the call.
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	h.RRO = !errors.Is(err, unix.ENOSYS)
	h.IDMap = h.RRO
	return nil
}

// parseKernel reads the two numbers a release such as 6.18.44-rc1 starts with.
func parseKernel(release string) (v [2]int) {
	_, _ = fmt.Sscanf(release, "%d.%d", &v[0], &v[1])
	return v
}

func detectSelf(h *Host) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("reading own privileges: %w", err)
	}
	if h.Capabilities, err = parseStatusCapabilities(string(status)); err != nil {
		return err
	}
	h.LowerOOM = slices.Contains(h.Capabilities, "CAP_SYS_RESOURCE")
	adj, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return fmt.Errorf("reading own oom_score_adj: %w", err)
	}
	h.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(adj)))
	return err
}

// parseStatusCapabilities gives what a child can have: permitted now and not
// taken out of the bounding set.
func parseStatusCapabilities(status string) ([]string, error) {
	mask := ^uint64(0)
	for _, field := range []string{"CapPrm:", "CapBnd:"} {
		_, rest, _ := strings.Cut(status, field)
		hex, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), "\n")
		bits, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s of /proc/self/status: %w", field, err)
		}
		mask &= bits
	}
	return CapabilityNames(mask), nil
}

// detectCgroups counts a hybrid host as v1: that is where its controllers are.
func detectCgroups(h *Host) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return fmt.Errorf("%s: %w: mount the cgroup file systems", cgroupRoot, err)
	}
	h.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return fmt.Errorf("reading mounts: %w", err)
	}
	if h.CgroupV2 {
		err = detectV2(h, mounts)
	} else {
		detectV1(h, mounts)
	}
	h.SystemdCgroup = pathExists("/run/systemd/system") && (h.CgroupV2 || fileStarts("/proc/1/comm", "systemd"))
	return err
}

func detectV1(h *Host, mounts []*mountinfo.Info) {
	h.Controllers = map[string]bool{}
	for _, m := range mounts {
		if m.FSType != "cgroup" || filepath.Dir(m.Mountpoint) != cgroupRoot {
			continue
		}
		for o := range strings.SplitSeq(m.VFSOptions, ",") {
			if o != "rw" && o != "ro" && !strings.Contains(o, "=") {
				h.Controllers[o] = true
			}
		}
		h.SwapAccount = h.SwapAccount || pathExists(filepath.Join(m.Mountpoint, "memory.memsw.limit_in_bytes"))
	}
}

func detectV2(h *Host, mounts []*mountinfo.Info) error {
	list, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("reading cgroup controllers: %w", err)
	}
	h.Controllers = map[string]bool{}
	for c := range strings.FieldsSeq(string(list)) {
		h.Controllers[c] = true
	}
	for _, m := range mounts {
		if m.Mountpoint == cgroupRoot {
			h.CgroupFlags = cgroupFlags(m.VFSOptions)
		}
	}
	// The first cgroup has no limits, so look one below it.
	swap, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", "memory.swap.max"))
	h.SwapAccount = len(swap) > 0
	return nil
}

// cgroupFlags are the options of a cgroup2 mount that are the hierarchy's.
func cgroupFlags(options string) []string {
	var out []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "nsdelegate", "favordynmods", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting", "pids_localevents":
			out = append(out, o)
		}
	}
	return out
}

// HandlerFeatures are what Status says of a runtime handler.
func (h Host) HandlerFeatures() *runtimeapi.RuntimeHandlerFeatures {
	return &runtimeapi.RuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: h.RRO,
		UserNamespaces:          h.UserNS && h.IDMap,
	}
}

// Features are what Status says of the runtime as a whole.
func (h Host) Features() *runtimeapi.RuntimeFeatures {
	return &runtimeapi.RuntimeFeatures{
		SupplementalGroupsPolicy:  true,
		UserNamespacesHostNetwork: h.UserNS && h.IDMap && h.RRO,
		MountOptions:              true,
	}
}

func pathExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func fileStarts(path, prefix string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(string(data), prefix)
}
