package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/test/client"
)

// guarded is a container as the kubelet asks for it, changed by f.
func guarded(f func(*runtimeapi.LinuxContainerSecurityContext)) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
			Seccomp:       &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		}
		if f != nil {
			f(c.Linux.SecurityContext)
		}
	}
}

func privilegedPod(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}
}

// maskOf is the set of names as the kernel writes it.
func maskOf(names []string) (mask uint64) {
	for bit := range 64 {
		if n := oci.CapabilityNames(1 << bit); len(n) > 0 && slices.Contains(names, n[0]) {
			mask |= 1 << bit
		}
	}
	return mask
}

// daemonsCaps are those that the daemon can hand on.
func daemonsCaps(t *testing.T) uint64 { return capMask(t, shared.PID(), "CapPrm") }

// S03: privileged beside unprivileged in one pod, and one with ALL capabilities
// that is not privileged for that.
func TestS03Privileged(t *testing.T) {
	p := shared.pod(t, privilegedPod)
	plain := p.idle("plain", guarded(nil))
	mighty := p.idle("mighty", guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.Privileged = true }))
	all := p.idle("all", guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
	}))
	t.Run("capabilities", func(t *testing.T) {
		daemon := daemonsCaps(t)
		for c, want := range map[*ctr]uint64{plain: maskOf(oci.DefaultCapabilities()) & daemon, mighty: daemon, all: daemon} {
			for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
				if got := capMask(t, c.hostPID(), set); got != want {
					t.Errorf("%s of %s is %x, want %x; the daemon has %x", set, c.Status().GetMetadata().GetName(), got, want, daemon)
				}
			}
		}
	})
	t.Run("seccomp", func(t *testing.T) {
		for c, want := range map[*ctr]string{plain: "2", mighty: "0", all: "2"} {
			if got := procStatus(t, c.hostPID())["Seccomp"]; got != want {
				t.Errorf("seccomp mode of %s is %s, want %s", c.Status().GetMetadata().GetName(), got, want)
			}
		}
	})
	t.Run("devices", func(t *testing.T) { devicesOf(t, plain, mighty) })
	t.Run("masked paths", func(t *testing.T) { masksOf(t, plain, mighty) })
	t.Run("audit", func(t *testing.T) { auditOf(t, p.in(t)) })
}

// devicesOf compares what is in /dev, and asks the kernel for a device by number.
func devicesOf(t *testing.T, plain, mighty *ctr) {
	t.Helper()
	std := []string{"/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"}
	if diff := cmp.Diff(std, deviceNodes(t, fmt.Sprintf("/proc/%d/root", plain.hostPID()))); diff != "" {
		t.Errorf("devices of the unprivileged one: %s", diff)
	}
	// The terminals are its own: the console is there when it has one, ptmx is a link.
	have := deviceNodes(t, fmt.Sprintf("/proc/%d/root", mighty.hostPID()))
	for _, host := range deviceNodes(t, "") {
		if !slices.Contains(have, host) && !slices.Contains([]string{"/dev/console", "/dev/ptmx"}, host) {
			t.Errorf("the privileged one lacks %s", host)
		}
	}
	const open = "mknod /tmp/kmsg c 1 11 && exec 3</tmp/kmsg" // the kernel's log: number 1:11 everywhere
	if r, err := plain.execSync(5, "sh", "-c", open); err != nil || r.GetExitCode() == 0 || !strings.Contains(string(r.GetStderr()), "Operation not permitted") {
		t.Errorf("the unprivileged one opens a device of the host: %v, %v", r, err)
	}
	mighty.Sh(open)
}

func deviceNodes(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root+"/dev", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if e.IsDir() && slices.Contains([]string{"/dev/pts", "/dev/shm", "/dev/mqueue"}, name) {
			return fs.SkipDir
		}
		if e.Type()&fs.ModeDevice != 0 {
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// masksOf looks into the mount tables for what hides and guards paths that tell
// of the whole machine; one that this kernel lacks needs no mask.
func masksOf(t *testing.T, plain, mighty *ctr) {
	t.Helper()
	asked := client.Shell("", "", guarded(nil)).GetLinux().GetSecurityContext()
	for c, want := range map[*ctr]bool{plain: true, mighty: false} {
		at := map[string]string{}
		for _, m := range mountTable(t, c.hostPID()) {
			at[m.Mountpoint] = m.Options
		}
		for _, path := range slices.Concat(asked.GetMaskedPaths(), asked.GetReadonlyPaths()) {
			if _, err := os.Stat(path); err != nil {
				continue
			}
			options, mounted := at[path]
			if mounted != want || mounted && path == "/proc/sys" && !strings.HasPrefix(options, "ro") {
				t.Errorf("%s: mounted over %s: %v, %s; want %v", c.Status().GetMetadata().GetName(), path, mounted, options, want)
			}
		}
	}
}

// auditOf wants the privileged one, only it, and why.
func auditOf(t *testing.T, p *pod) {
	t.Helper()
	list := p.audit()
	for name, want := range map[string]struct {
		privileged bool
		weak       []string
	}{
		"plain":  {false, nil},
		"mighty": {true, []string{"privileged", "may have CAP_", "no seccomp filter", "unmasked /proc and /sys"}},
		"all":    {false, []string{"may have CAP_"}},
	} {
		is, ok := list[name]
		text := strings.Join(is.Weak, "; ")
		if !ok || is.Privileged != want.privileged || (len(want.weak) == 0) != (len(is.Weak) == 0) {
			t.Errorf("%s: %+v", name, is)
		}
		for _, w := range want.weak {
			if !strings.Contains(text, w) {
				t.Errorf("%s is weakened by %q, want %q too", name, text, w)
			}
		}
		if is.User != "0 of the machine" {
			t.Errorf("%s runs as %s", name, is.User)
		}
	}
	table := p.s.berth(p.T, "audit")
	if !strings.Contains(table, "mighty") || strings.Count(table, " privileged;") != strings.Count(table, " mighty ") {
		t.Errorf("the table:\n%s", table)
	}
}
