package oci

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// asJSON makes values comparable that hold pointers or protobuf state.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func specOf(t *testing.T, r *runtimeapi.LinuxContainerResources) *specs.Spec {
	t.Helper()
	in := baseInput()
	in.linux().Resources = r
	spec, err := Spec(in.pod, in.ctr, in.img, in.host)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestContainerResourcesEchoesWhatWasAsked(t *testing.T) {
	want := allResources()
	want.MemorySwapLimitInBytes = 96 << 20
	got := ContainerResources(specOf(t, want)).GetLinux()
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, got)); diff != "" {
		t.Error(diff)
	}
	if got := ContainerResources(&specs.Spec{}).GetLinux(); got == nil {
		t.Error("no resources for an empty spec")
	}
}

func TestUpdateResources(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	for name, c := range map[string]struct{ old, change, want *res }{
		"nothing":         {allResources(), &res{}, withSwap(64<<20, 64<<20)},
		"nil":             {allResources(), nil, withSwap(64<<20, 64<<20)},
		"memory":          {allResources(), &res{MemoryLimitInBytes: 32 << 20}, withSwap(32<<20, 32<<20)},
		"memory and swap": {allResources(), &res{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: -1}, withSwap(32<<20, -1)},
		"swap alone":      {allResources(), &res{MemorySwapLimitInBytes: 80 << 20}, withSwap(64<<20, 80<<20)},
		"from nothing":    {nil, &res{CpuShares: 7}, &res{CpuShares: 7}},
		"maps": {
			&res{Unified: map[string]string{"memory.high": "1", "io.weight": "2"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}, {PageSize: "1GB", Limit: 3}}},
			&res{Unified: map[string]string{"memory.high": "9"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 5}}},
			&res{Unified: map[string]string{"memory.high": "9", "io.weight": "2"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 3}, {PageSize: "2MB", Limit: 5}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			old := specOf(t, c.old).Linux.Resources
			before := asJSON(t, old)
			got, err := UpdateResources(old, c.change, v2Host())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(asJSON(t, c.want), asJSON(t, criResources(got))); diff != "" {
				t.Error(diff)
			}
			if len(got.Devices) != 1 {
				t.Error("device rules were lost")
			}
			if asJSON(t, old) != before {
				t.Error("the old resources were changed")
			}
		})
	}
}

// withSwap is what [allResources] becomes with these memory limits, which no
// oom_score_adj is part of.
func withSwap(limit, swap int64) *runtimeapi.LinuxContainerResources {
	r := allResources()
	r.OomScoreAdj, r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 0, limit, swap
	return r
}

func TestUpdateResourcesRefuses(t *testing.T) {
	old := specOf(t, allResources()).Linux.Resources
	for name, r := range map[string]*runtimeapi.LinuxContainerResources{
		"negative memory": {MemoryLimitInBytes: -2},
		"swap too small":  {MemorySwapLimitInBytes: 1 << 20},
		"period":          {CpuPeriod: -1},
		"cpuset":          {CpusetCpus: "0\n1"},
	} {
		if _, err := UpdateResources(old, r, v2Host()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A limit that nothing would enforce is an error where somebody chose it, and a
// warning where the kubelet sets it on every container; never nothing.
func TestLimitsWithoutController(t *testing.T) {
	type res = runtimeapi.LinuxContainerResources
	page := func(limit uint64) []*runtimeapi.HugepageLimit {
		return []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: limit}}
	}
	bare := v1Host()
	bare.Controllers = map[string]bool{}
	for name, c := range map[string]struct {
		r       *res
		refused bool
		warned  string
	}{
		"nothing":        {&res{}, false, ""},
		"cpuset cpus":    {&res{CpusetCpus: "0"}, true, ""},
		"cpuset mems":    {&res{CpusetMems: "0"}, true, ""},
		"cpu quota":      {&res{CpuQuota: 10000, CpuPeriod: 100000}, true, "cpu_period"},
		"no cpu quota":   {&res{CpuQuota: -1}, false, ""},
		"cpu shares":     {&res{CpuShares: 2}, false, "cpu_shares"},
		"memory":         {&res{MemoryLimitInBytes: 1 << 20}, true, ""},
		"huge pages":     {&res{HugepageLimits: page(1)}, true, "hugepage_limits"},
		"no huge pages":  {&res{HugepageLimits: page(0)}, false, "hugepage_limits"},
		"swap, no limit": {&res{MemorySwapLimitInBytes: -1}, false, "memory_swap_limit_in_bytes"},
	} {
		if _, err := UpdateResources(nil, c.r, bare); errors.Is(err, ErrUnsupported) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
		got := strings.Join(Unenforced(c.r, bare), "; ")
		if (got != "") != (c.warned != "") || !strings.Contains(got, c.warned) {
			t.Errorf("%s: the warning is %q", name, got)
		}
		if all := Unenforced(c.r, v2Host()); all != nil {
			t.Errorf("%s: a host with everything warns %q", name, all)
		}
	}
}

func TestUpdateOOMScoreAdj(t *testing.T) {
	for asked, want := range map[int64]int{500: 500, -900: -500, 1000: 1000} {
		if got := UpdateOOMScoreAdj(&runtimeapi.LinuxContainerResources{OomScoreAdj: asked}, v1Host()); got == nil || *got != want {
			t.Errorf("%d: %v, want %d", asked, got, want)
		}
	}
	for _, asked := range []int64{5000, 1001, -1001} {
		if _, err := UpdateResources(nil, &runtimeapi.LinuxContainerResources{OomScoreAdj: asked}, v1Host()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v, want a refusal", asked, err)
		}
	}
	if got := UpdateOOMScoreAdj(nil, v1Host()); got != nil {
		t.Errorf("not asked for: %d", *got)
	}
}
