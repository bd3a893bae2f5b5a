package nri

import (
	"errors"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
)

func ptr[T any](v T) *T { return &v }

// v2Host is a node of cgroup v2 with all that limits need.
var v2Host = oci.Host{CgroupV2: true, SwapAccount: true, Controllers: map[string]bool{"cpu": true, "memory": true, "hugetlb": true, "pids": true}}

func bareSpec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Args: []string{"a"}}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
}

// What machines of tests rarely have: classes and schemata of RDT, network devices, huge
// pages, files of cgroup v2, realtime and deadlines, a seccomp filter's own errno.
func TestAdjustWhatIsRare(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.SetLinuxRDTClass("gold")
	a.SetLinuxRDTSchemata([]string{"L3:0=f"})
	a.SetLinuxRDTEnableMonitoring(true)
	a.AddLinuxNetDevice("eth7", &api.LinuxNetDevice{Name: "fast"})
	a.AddLinuxHugepageLimit("2MB", 4<<20)
	a.AddLinuxUnified("memory.high", "1000")
	a.SetLinuxMemoryLimit(1 << 20)
	a.SetLinuxMemoryReservation(1 << 19)
	a.SetLinuxMemorySwap(2 << 20)
	a.SetLinuxCPURealtimeRuntime(950)
	a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_DEADLINE, Runtime: 1, Deadline: 2, Period: 3})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrno: api.UInt32(uint32(38))})
	a.SetLinuxCgroupsPath("/other/place")
	a.AddRlimit("RLIMIT_NOFILE", 2, 1)
	got := bareSpec()
	got.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 9, Soft: 9}, {Type: "RLIMIT_CORE"}}
	if err := adjust(got, a, v2Host); err != nil {
		t.Fatal(err)
	}
	want := &specs.Spec{
		Process: &specs.Process{
			Args: []string{"a"}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_NOFILE", Hard: 2, Soft: 1}},
			Scheduler: &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1, Deadline: 2, Period: 3},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/other/place",
			IntelRdt:    &specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L3:0=f"}, EnableMonitoring: true},
			NetDevices:  map[string]specs.LinuxNetDevice{"eth7": {Name: "fast"}},
			Seccomp:     &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: ptr(uint(38))},
			Resources: &specs.LinuxResources{
				CPU:            &specs.LinuxCPU{RealtimeRuntime: ptr(int64(950))},
				Memory:         &specs.LinuxMemory{Limit: ptr(int64(1 << 20)), Swap: ptr(int64(2 << 20)), Reservation: ptr(int64(1 << 19))},
				HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
				Unified:        map[string]string{"memory.high": "1000"},
			},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	a = &api.ContainerAdjustment{}
	a.SetLinuxBlockIOClass("slow")
	if err := adjust(bareSpec(), a, v2Host); !errors.Is(err, errNoBlockIO) {
		t.Errorf("class of block I/O: %v", err)
	}
	a = &api.ContainerAdjustment{}
	a.AddLinuxHugepageLimit("2MB", 4<<20)
	a.SetLinuxMemoryLimit(1 << 20)
	bare := bareSpec()
	if err := adjust(bare, a, oci.Host{}); err != nil || bare.Linux.Resources.HugepageLimits != nil || bare.Linux.Resources.Memory.Swap != nil {
		t.Errorf("limits that the host does not account for: %+v, %v", bare.Linux.Resources, err)
	}
}

// A device that is removed can't be used any more, unless another node is the same device.
func TestRemovedDevice(t *testing.T) {
	spec := bareSpec()
	node := func(path string, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: path, Type: "c", Major: 1, Minor: minor}
	}
	rule := func(minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(minor), Access: "rwm"}
	}
	spec.Linux.Devices = []specs.LinuxDevice{node("/dev/a", 3), node("/dev/b", 5), node("/dev/same", 5)}
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}, rule(3), rule(5)}
	left := &api.Container{Linux: &api.LinuxContainer{Devices: []*api.LinuxDevice{{Path: "/dev/same"}}}}
	a := &api.ContainerAdjustment{}
	addRemovals(spec, left, a)
	if err := adjust(spec, a, v2Host); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]specs.LinuxDevice{node("/dev/same", 5)}, spec.Linux.Devices); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]specs.LinuxDeviceCgroup{{Access: "rwm"}, rule(5)}, spec.Linux.Resources.Devices); diff != "" {
		t.Error(diff)
	}
}

// What plugins ask for counts, and what they do not speak of is as the client asked.
func TestLimits(t *testing.T) {
	asked := &runtimeapi.LinuxContainerResources{CpuShares: 5, CpuQuota: 7, OomScoreAdj: 9, Unified: map[string]string{"a.b": "1"}}
	r := &api.LinuxResources{
		Cpu: &api.LinuxCPU{Quota: api.Int64(int64(8)), RealtimePeriod: api.UInt64(uint64(4))}, Memory: &api.LinuxMemory{Reservation: api.Int64(int64(6))},
		Pids: &api.LinuxPids{Limit: 3}, Unified: map[string]string{"c.d": "2"},
	}
	got, err := limitsOf(asked, r)
	if err != nil {
		t.Fatal(err)
	}
	want := &runtimeapi.LinuxContainerResources{CpuShares: 5, CpuQuota: 8, OomScoreAdj: 9, Unified: map[string]string{"a.b": "1", "c.d": "2"}}
	if diff := cmp.Diff(want, got.LinuxContainerResources, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	more := &specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: ptr(uint64(4))}, Memory: &specs.LinuxMemory{Reservation: ptr(int64(6))}, Pids: &specs.LinuxPids{Limit: ptr(int64(3))}}
	if diff := cmp.Diff(more, got.More); diff != "" {
		t.Error(diff)
	}
	for _, r := range []*api.LinuxResources{{BlockioClass: api.String("x")}, {RdtClass: api.String("x")}} {
		if _, err := limitsOf(nil, r); err == nil {
			t.Errorf("%v is taken", r)
		}
	}
}

// An error is given the name of the plugin that it came from, also when another plugin has
// said the same.
func TestErrorsNameTheirPlugin(t *testing.T) {
	var c counters
	one, two := errors.New("no"), errors.New("no")
	c.RecordPluginInvocation("10-one", "CreateContainer", one)
	c.RecordPluginInvocation("20-two", "StartContainer", two)
	c.RecordPluginInvocation("30-fine", "StartContainer", nil)
	for err, want := range map[error]string{
		one:               "NRI plugin 10-one refuses CreateContainer: no",
		two:               "NRI plugin 20-two refuses StartContainer: no",
		errors.New("odd"): "NRI: odd",
	} {
		if got := c.named(err); got.Error() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for range 2 * maxRefusals {
		c.RecordPluginInvocation("40-many", "x", errors.New("y"))
	}
	if len(c.refusals) != maxRefusals {
		t.Errorf("%d errors are remembered", len(c.refusals))
	}
}
