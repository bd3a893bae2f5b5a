package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What attacks have in common: a container as a tenant of a cluster gets it, and
// one without guards that shows what the attack does where nothing stops it.

// asTenant is a container as the kubelet asks for it: root with the default
// capabilities and seccomp filter, and Kubernetes' lists of masked and read-only paths.
func asTenant(c *runtimeapi.ContainerConfig) {
	guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.MaskedPaths = []string{
			"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
		}
	})(c)
}

// privileged is without guards.
func privileged(c *runtimeapi.ContainerConfig) {
	guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.Privileged = true })(c)
}

// tenantAndMighty are two of a pod, with the probe.
func tenantAndMighty(t *testing.T) (tenant, mighty *ctr) {
	t.Helper()
	p := shared.pod(t, privilegedPod)
	return p.idle("tenant", asTenant, withProbe(t)), p.idle("mighty", privileged, withProbe(t))
}

// script is an attack by shell: it exits with 0 when it succeeded.
type script struct {
	name string // of the subtest
	run  string
	says string // a regular expression of what the guard makes it say
	// control is what must succeed without guards, so that its failure with them
	// means something: another script, or same. Empty where it would do harm.
	control string
}

const same = "same"

// Words of the kernel that a guard makes a shell say.
const (
	denied   = "(?i)operation not permitted|permission denied"
	readOnly = "(?i)read-only file system"
	noFile   = "(?i)no such file or directory"
)

// try runs scripts as subtests, each in the tenant and then without guards.
func try(t *testing.T, tenant, mighty *ctr, scripts []script) {
	t.Helper()
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			r, err := tenant.in(t).execSync(10, "sh", "-c", s.run)
			if err != nil {
				t.Fatal(err)
			}
			said := string(r.GetStdout()) + string(r.GetStderr())
			if r.GetExitCode() == 0 {
				t.Errorf("%q succeeded: %s", s.run, said)
			}
			if !regexp.MustCompile(s.says).MatchString(said) {
				t.Errorf("%q failed with %d and %q, not by the guard, which makes it say %q", s.run, r.GetExitCode(), said, s.says)
			}
			if control := strings.Replace(s.control, same, s.run, 1); control != "" {
				mighty.in(t).Sh(control)
			}
		})
	}
}

// unchanged fails the test when the file of the host changes until its end.
func unchanged(t *testing.T, file string) {
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil {
		return // this kernel has none
	}
	t.Cleanup(func() {
		if after, _ := os.ReadFile(file); string(after) != string(before) {
			t.Errorf("%s of the host was %q and is %q", file, before, after)
		}
	})
}

// secret is a file of the host outside every container, in a directory of its
// own; the directory's entries must stay one.
func secret(t *testing.T) (dir string) {
	t.Helper()
	dir = volume(t)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("outside of containers there are %v, %v", entries, err)
		}
		if got := content(t, filepath.Join(dir, "secret")); got != "of the host\n" {
			t.Errorf("the host's file became %q", got)
		}
	})
	return dir
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}
