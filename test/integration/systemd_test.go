package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/oci/atomicfile"
	"berth/oci/shimapi"
	"berth/test/node"
)

// onlySystemd skips where cgroups are not systemd's to make.
func onlySystemd(t *testing.T) {
	t.Helper()
	if !systemdDriver(t) {
		t.Skip("the init of this machine is not systemd")
	}
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(within(t), "systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// property is what systemd knows of a unit.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return systemctl(t, "show", "--value", "-p", name, unit)
}

// unitOf is the unit that a process is in.
func unitOf(t *testing.T, pid int) string {
	t.Helper()
	return filepath.Base(cgroupDir(t, pid, "systemd"))
}

// graceOf gives a container the annotation that the kubelet writes the grace period to.
func graceOf(seconds string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Annotations = map[string]string{oci.GraceAnnotation: seconds}
	}
}

// hasProperties checks properties of a unit, one value each.
func hasProperties(t *testing.T, unit string, want map[string]string) {
	t.Helper()
	for name, want := range want {
		if got := property(t, unit, name); got != want {
			t.Errorf("%s of %s is %q, want %q", name, unit, got, want)
		}
	}
}

// isOrdered checks that lists of a unit have units.
func isOrdered(t *testing.T, unit string, wants map[string][]string) {
	t.Helper()
	for name, wants := range wants {
		got := strings.Fields(property(t, unit, name))
		for _, want := range wants {
			if !slices.Contains(got, want) {
				t.Errorf("%s of %s is %q, without %s", name, unit, got, want)
			}
		}
	}
}

// The scope of a container is stopped as the node shuts down, before the network, the shim
// and pause, and has its own signal and its pod's grace period for it.
func TestSystemdScope(t *testing.T) {
	onlySystemd(t)
	p := shared.pod(t)
	c := p.start("c", "exec sleep 1000", graceOf("77"), func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_SIGQUIT })
	scope, shim, pause := unitOf(t, c.hostPID()), unitOf(t, shimOf(t, c.hostPID())), unitOf(t, recordOf(t, p).PID)
	hasProperties(t, scope, map[string]string{
		"TimeoutStopUSec": "1min 17s", "DefaultDependencies": "yes", "Delegate": "yes", "CollectMode": "inactive-or-failed",
		"KillSignal": strconv.Itoa(int(unix.SIGQUIT)),
	})
	hasProperties(t, pause, map[string]string{
		"Slice": property(t, scope, "Slice"), "DefaultDependencies": "yes", "KillSignal": strconv.Itoa(int(unix.SIGKILL)),
	})
	if want := "berth-" + p.ID + ".scope"; pause != want {
		t.Errorf("pause is in %s, want %s", pause, want)
	}
	shutdown := []string{"shutdown.target"}
	isOrdered(t, scope, map[string][]string{"After": {"network.target", shimapi.ContainersSlice}, "Before": shutdown, "Conflicts": shutdown})
	isOrdered(t, shimapi.ContainersSlice, map[string][]string{"After": {shim, pause}, "Before": {"shutdown.target", scope}, "Conflicts": shutdown})
	hasProperties(t, shimapi.ContainersSlice, map[string]string{"ActiveState": "active"})
	if got := c.Sh("cat /proc/self/cgroup"); strings.Count(got, "\n") != 1 {
		t.Errorf("cgroups of an exec: %s", got)
	}
}

// recordOf is what the shim has written down about a pod's pause process, or with the ID of a
// container about that.
func recordOf(t *testing.T, p *pod, ctr ...string) (fact shimapi.Record) {
	t.Helper()
	dir := filepath.Join(p.s.Root, "pods", p.ID)
	for _, id := range ctr {
		dir = filepath.Join(dir, "containers", id)
	}
	if err := atomicfile.Read(filepath.Join(dir, shimapi.RecordName), &fact); err != nil {
		t.Fatal(err)
	}
	return fact
}

// Pause's scope goes with the pod, though systemd has made it.
func TestSystemdForgetsAPod(t *testing.T) {
	onlySystemd(t)
	p := shared.pod(t)
	pause := unitOf(t, recordOf(t, p).PID)
	p.Remove()
	eventually(t, "systemd forgets "+pause, func() bool { return property(t, pause, "LoadState") == "not-found" })
}

// At a shutdown of the node the containers end before their shim, which records how they
// did, and before pause, also when another shim has made them.
func TestSystemdStopsShimsLast(t *testing.T) {
	onlySystemd(t)
	s := own(t, node.Options{})
	p := s.pod(t)
	c := p.start("c", "trap 'sleep 2; echo ended; exit 7' TERM; echo ready; while :; do sleep 0.1; done", graceOf("60"))
	c.says(" F ready\n")
	dead := s.shim(t)
	if err := unix.Kill(dead, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shim has a replacement", func() bool {
		now, err := s.findShim()
		return err == nil && now != dead
	})
	c.Sh("true") // it has the container
	shim, pause := unitOf(t, s.shim(t)), unitOf(t, recordOf(t, p).PID)
	systemctl(t, "stop", unitOf(t, c.hostPID()), shimapi.ContainersSlice, pause, shim)
	if fact := recordOf(t, p, c.ID); fact.ExitCode != 7 {
		t.Errorf("the record of the container is %+v, want exit code 7", fact)
	}
	if got := output(readLog(t, c.LogFile()), "stdout"); got != "ready\nended\n" {
		t.Errorf("it said %q", got)
	}
}

// shimOf is the shim that a container's first process is a child of.
func shimOf(t *testing.T, pid int) int {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "status")) {
		if parent, ok := strings.CutPrefix(line, "PPid:"); ok {
			return int(number(t, strings.TrimSpace(parent)))
		}
	}
	t.Fatalf("process %d has no parent", pid)
	return 0
}

// What systemd does to a scope as the node shuts down lets a container end by itself, and
// the shim records how it did.
func TestSystemdStopsAContainerWithGrace(t *testing.T) {
	onlySystemd(t)
	const script = "trap 'sleep 2; echo ended; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
	c := shared.pod(t).start("c", script, graceOf("60"))
	c.says(" F ready\n")
	scope := unitOf(t, c.hostPID())
	systemctl(t, "stop", scope)
	if st := c.Ended(); st.GetExitCode() != 7 {
		t.Errorf("exit code %d, want the one after its last words", st.GetExitCode())
	}
	if got := output(readLog(t, c.LogFile()), "stdout"); got != "ready\nended\n" {
		t.Errorf("it said %q", got)
	}
	// One that does not hear is killed after the time, and leaves no failed unit.
	deaf := shared.pod(t, named("deaf")).start("deaf", "trap '' TERM; echo ready; while :; do sleep 0.1; done", graceOf("1"))
	deaf.says(" F ready\n")
	scope = unitOf(t, deaf.hostPID())
	systemctl(t, "stop", scope)
	if st := deaf.Ended(); st.GetExitCode() != 137 {
		t.Errorf("exit code %d of one that was killed", st.GetExitCode())
	}
	eventually(t, "systemd forgets "+scope, func() bool { return property(t, scope, "LoadState") == "not-found" })
}

// A reload of systemd's units gives no device to a container and takes none.
func TestSystemdReloadKeepsDevicesAndLimits(t *testing.T) {
	onlySystemd(t)
	c := shared.pod(t).start("c", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/loop-control", ContainerPath: "/dev/given", Permissions: "r"}}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 50000, CpuPeriod: 100000}
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{AddCapabilities: []string{"MKNOD"}}}
	})
	const look = `for m in r w; do
		case $m in r) ( : < /dev/given ) 2>/dev/null;; w) ( : > /dev/given ) 2>/dev/null;; esac && echo given:$m
	done
	( : > /dev/null ) && echo null
	mknod /tmp/vda b 254 0 && ( : < /tmp/vda ) 2>/dev/null && echo disk; rm -f /tmp/vda; true`
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Fatal(err)
	}
	limits := func() string {
		return cgroupValue(t, c, "memory", "", "memory.max") + " " + cgroupValue(t, c, "cpu", "", "cpu.max")
	}
	const want, wantLimits = "given:r\nnull\n", "100663296 50000 100000"
	for _, when := range []string{"before", "after a reload", "after a re-execution"} {
		if got := c.Sh(look); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		if got := limits(); got != wantLimits {
			t.Errorf("%s: limits %q, want %q", when, got, wantLimits)
		}
		switch when {
		case "before":
			systemctl(t, "daemon-reload")
		case "after a reload":
			systemctl(t, "daemon-reexec")
		}
	}
	// The shim's connection to systemd is a new one.
	if err := c.update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}, nil); err != nil {
		t.Fatal(err)
	}
	if got := cgroupValue(t, c, "memory", "", "memory.max"); got != "134217728" {
		t.Errorf("after an update: %s", got)
	}
	if got := property(t, unitOf(t, c.hostPID()), "MemoryMax"); got != "134217728" {
		t.Errorf("systemd would set %s at its next reload", got)
	}
}

// The shim is in a scope of its own: in the daemon's unit it would share its limits.
func TestSystemdShimIsInAScopeOfItsOwn(t *testing.T) {
	onlySystemd(t)
	c := shared.pod(t).start("c", "exec sleep 1000")
	shim := shimOf(t, c.hostPID())
	scope := unitOf(t, shim)
	if !regexp.MustCompile(`^berth-shim-.*\.scope$`).MatchString(scope) {
		t.Fatalf("the shim is in %s", scope)
	}
	if daemon := unitOf(t, shared.PID()); daemon == scope {
		t.Errorf("the daemon is in %s too", scope)
	}
	hasProperties(t, scope, map[string]string{"Delegate": "yes", "Slice": shimapi.ShimSlice, "TasksMax": "infinity"})
}

// service runs the node's daemon as a unit of systemd, made of the one in hack/.
func (s *suite) service(t *testing.T) (unit string) {
	t.Helper()
	text, err := os.ReadFile("../../hack/berthd.service")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	unit = s.CgroupMark + ".service"
	file := filepath.Join("/run/systemd/system", unit)
	text = regexp.MustCompile(`(?m)^ExecStart=.*$`).ReplaceAll(text, []byte("ExecStart="+strings.Join(s.Command(), " ")))
	text = regexp.MustCompile(`(?m)^WatchdogSec=.*$`).ReplaceAll(text, fmt.Appendf(nil, "WatchdogSec=%.0f", watchdog.Seconds()))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	systemctl(t, "start", unit)
	t.Cleanup(func() {
		systemctl(t, "stop", unit)
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
		systemctl(t, "daemon-reload")
		if err := s.Restart(context.Background()); err != nil { // the test's own context has ended
			t.Error(err)
		}
	})
	s.resubscribe(t)
	return unit
}

// watchdog is short, so that the test is; an emulated machine must answer in it still.
const watchdog = 20 * time.Second

// A reload, a restart, and the watchdog's end of a daemon that hangs leave containers
// alone, and the first of them also the daemon.
func TestSystemdService(t *testing.T) {
	onlySystemd(t)
	s := own(t, node.Options{})
	unit := s.service(t)
	p := s.pod(t)
	c := p.start("c", "exec sleep 1000")
	first := recordOf(t, p, c.ID)
	main := func() int {
		n, err := strconv.Atoi(property(t, unit, "MainPID"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	well := func(after string) {
		t.Helper()
		if got := property(t, unit, "ActiveState"); got != "active" {
			t.Errorf("after %s the unit is %s", after, got)
		}
		began, err := shimapi.StartTime(first.PID)
		if err != nil || began != first.StartTime || c.Status().GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("after %s the container is %v, its process began at %d, %v, before %d", after, c.Status(), began, err, first.StartTime)
		}
	}
	daemon := main()
	systemctl(t, "reload", unit)
	if got := main(); got != daemon {
		t.Errorf("after a reload the daemon is process %d, before %d", got, daemon)
	}
	well("a reload")
	systemctl(t, "restart", unit)
	s.resubscribe(t)
	second := main()
	if second == daemon {
		t.Error("a restart has left the daemon running")
	}
	well("a restart")
	// It answers for longer than the watchdog waits, and is left alone.
	select {
	case <-time.After(watchdog + watchdog/2):
	case <-t.Context().Done():
	}
	if got := main(); got != second {
		t.Errorf("a daemon that answers was ended: process %d, now %d", second, got)
	}
	if err := unix.Kill(second, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "systemd has replaced the daemon that hangs", func() bool {
		n := main()
		return n != 0 && n != second && property(t, unit, "ActiveState") == "active"
	})
	s.resubscribe(t)
	well("the watchdog")
}
