package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// S07: a limit of 0.2 CPUs on a busy loop of 3 s holds within a tenth, and how the
// loop was held back shows in metrics and explain. Shares alone hold nobody back.
// TestLimitsAreTheKernels has the files of limits and of their updates.
func TestS07CPU(t *testing.T) {
	p := shared.pod(t)
	t.Run("limit", func(t *testing.T) { limitedCPU(t, p.in(t)) })
	t.Run("shares", func(t *testing.T) { sharedCPU(t, p.in(t)) })
	t.Run("burst", func(t *testing.T) {
		onlyV2(t, p.in(t), "cpu.max.burst", "20000")
		c := p.in(t).idle("burst", resources(&runtimeapi.LinuxContainerResources{
			CpuQuota: 20000, CpuPeriod: 100000, Unified: map[string]string{"cpu.max.burst": "20000"},
		}))
		if got := cgroupValue(t, c, "cpu", "", "cpu.max.burst"); got != "20000" {
			t.Errorf("cpu.max.burst is %s", got)
		}
	})
}

// busy runs loops in the container, more than one that its share may be used up on
// a machine that is busy itself. It gives what they took by the kernel's count and
// by the clock, both with the exec around them.
func busy(t *testing.T, c *ctr, seconds string) (used, wall time.Duration) {
	t.Helper()
	dir := cgroupDir(t, c.hostPID(), "cpuacct")
	count := func() time.Duration {
		if v2 {
			return time.Duration(cgroupKey(t, dir, "", "cpu.stat", "usage_usec")) * time.Microsecond
		}
		return time.Duration(number(t, cgroupRead(t, dir, "cpuacct.usage", "")))
	}
	before, began := count(), time.Now()
	c.Sh("for i in 1 2 3; do timeout " + seconds + " sh -c 'while :; do :; done' & done; wait")
	return count() - before, time.Since(began)
}

func limitedCPU(t *testing.T, p *pod) {
	t.Helper()
	c := p.idle("limit", resources(&runtimeapi.LinuxContainerResources{CpuQuota: 20000, CpuPeriod: 100000}))
	dir := cgroupDir(t, c.hostPID(), "cpu")
	preferred(t, filepath.Dir(dir))
	used, wall := busy(t, c, "3")
	most := wall / 5 * 11 / 10
	if used > most || wall < 3*time.Second {
		t.Errorf("used %v in %v, at most %v are its share", used, wall, most)
	}
	periods, throttled := cgroupKey(t, dir, "cpu.stat", "cpu.stat", "nr_periods"), cgroupKey(t, dir, "cpu.stat", "cpu.stat", "nr_throttled")
	stood := stoodStill(t, dir)
	if throttled*4 < periods || periods < 20 || stood == 0 {
		t.Errorf("the kernel throttled it in %d of %d periods, %v in all", throttled, periods, stood)
	}
	metrics := c.metrics()
	if metrics["container_cpu_cfs_periods_total"] < periods || metrics["container_cpu_cfs_throttled_periods_total"] < throttled ||
		metrics["container_cpu_cfs_throttled_seconds_total"] < uint64(stood/time.Second) || metrics["container_spec_cpu_quota"] != 20000 {
		t.Errorf("the kernel throttled it in %d of %d periods, metrics say %v", throttled, periods, metrics)
	}
	c.likely("cgroup", "CPU limit of 0.2 CPUs")
	if got := c.fact("cgroup", "throttled"); !strings.HasPrefix(got, "in ") || strings.HasPrefix(got, "in 0 ") {
		t.Errorf("explain has throttled %q", got)
	}
}

// preferred gives the pod more weight than all others: only its limit shall hold it
// back, also where the tests are not alone.
func preferred(t *testing.T, dir string) {
	t.Helper()
	name, most := "cpu.shares", "262144"
	if v2 {
		name, most = "cpu.weight", "10000"
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(most), 0); err != nil {
		t.Fatal(err)
	}
}

// stoodStill is how long the kernel held all loops together back.
func stoodStill(t *testing.T, dir string) time.Duration {
	t.Helper()
	if v2 {
		return time.Duration(cgroupKey(t, dir, "", "cpu.stat", "throttled_usec")) * time.Microsecond
	}
	return time.Duration(cgroupKey(t, dir, "cpu.stat", "", "throttled_time"))
}

// metrics are those of the container that are numbers of their own.
func (c *ctr) metrics() map[string]uint64 {
	c.p.T.Helper()
	r, err := c.p.s.Runtime.ListPodSandboxMetrics(within(c.p.T), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		c.p.T.Fatal(err)
	}
	out := map[string]uint64{}
	for _, p := range r.GetPodMetrics() {
		for _, of := range p.GetContainerMetrics() {
			for _, m := range of.GetMetrics() {
				if of.GetContainerId() == c.ID {
					out[m.GetName()] = m.GetValue().GetValue()
				}
			}
		}
	}
	return out
}

func sharedCPU(t *testing.T, p *pod) {
	t.Helper()
	c := p.idle("shares", resources(&runtimeapi.LinuxContainerResources{CpuShares: 512}))
	busy(t, c, "1")
	if n := cgroupKey(t, cgroupDir(t, c.hostPID(), "cpu"), "cpu.stat", "cpu.stat", "nr_throttled"); n != 0 {
		t.Errorf("shares without a limit were throttled %d times", n)
	}
	if n := c.metrics()["container_cpu_cfs_throttled_periods_total"]; n != 0 {
		t.Errorf("metrics say throttled %d times", n)
	}
	if got := c.fact("cgroup", "CPU limit"); got != "none" {
		t.Errorf("explain has a CPU limit of %s", got)
	}
}
