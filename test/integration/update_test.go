package integration

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

func (c *ctr) update(r *runtimeapi.LinuxContainerResources, annotations map[string]string) error {
	c.p.T.Helper()
	_, err := c.p.s.Runtime.UpdateContainerResources(within(c.p.T), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.ID, Linux: r, Annotations: annotations,
	})
	return err
}

// details is the verbose part of a container's status.
func (c *ctr) details() (out struct {
	Warnings          []string
	UpdateAnnotations map[string]string
}) {
	c.p.T.Helper()
	r, err := c.p.s.Runtime.ContainerStatus(within(c.p.T), &runtimeapi.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err == nil {
		err = json.Unmarshal([]byte(r.GetInfo()["info"]), &out)
	}
	if err != nil {
		c.p.T.Fatal(err)
	}
	return out
}

// An update of oom_score_adj reaches every process, but those that chose another,
// and the execs to come; that of annotations is kept.
func TestUpdateOfTheOOMScore(t *testing.T) {
	p := shared.pod(t)
	c := p.start("c", "(echo 900 >/proc/self/oom_score_adj; echo up; exec sleep 1001) & sleep 1002 & exec sleep 1003",
		resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: 100}))
	c.says(" F up\n")
	scores := func() string {
		t.Helper()
		var all []string
		for _, pid := range pids(t, c) {
			all = append(all, strings.TrimSpace(procFile(t, pid, "oom_score_adj")))
		}
		slices.Sort(all)
		return strings.Join(all, " ") + ", " + c.Sh("cat /proc/self/oom_score_adj")
	}
	eventually(t, "all processes have been started", func() bool { return scores() == "100 100 900, 100\n" })
	if err := c.update(&runtimeapi.LinuxContainerResources{OomScoreAdj: 300}, map[string]string{"example.org/a": "b"}); err != nil {
		t.Fatal(err)
	}
	if got := scores(); got != "300 300 900, 300\n" {
		t.Errorf("after the update: %s", got)
	}
	if got := c.Status().GetResources().GetLinux().GetOomScoreAdj(); got != 300 {
		t.Errorf("the status tells %d", got)
	}
	if got := c.details().UpdateAnnotations; got["example.org/a"] != "b" {
		t.Errorf("the annotations of the update are %v", got)
	}
	if err := c.update(&runtimeapi.LinuxContainerResources{CpuShares: 512}, nil); err != nil {
		t.Fatal(err)
	}
	if got := scores(); got != "300 300 900, 300\n" {
		t.Errorf("after an update of something else: %s", got)
	}
}

// A limit of huge pages that nothing enforces is an error; of one of 0, which the
// kubelet sets on every container, status and explain warn.
func TestLimitsThatNothingEnforces(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/hugetlb"); err == nil || v2 {
		t.Skip("this machine may enforce limits of huge pages; the unit test TestLimitsWithoutController has the rest")
	}
	p := shared.pod(t)
	pages := func(limit uint64) *runtimeapi.LinuxContainerResources {
		return &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: limit}}}
	}
	_, err := p.create(client.Shell("refused", "true", resources(pages(2<<20))))
	if wantCode(t, "create", err, codes.FailedPrecondition); err != nil && !strings.Contains(err.Error(), "hugetlb") {
		t.Error(err)
	}
	c := p.idle("warned", resources(pages(0)))
	if got := c.details().Warnings; len(got) != 1 || !strings.Contains(got[0], "hugetlb") {
		t.Errorf("the status warns %q", got)
	}
	if got := c.fact("cgroup", "warning"); !strings.Contains(got, "hugetlb") {
		t.Errorf("explain warns %q", got)
	}
	wantCode(t, "update", c.update(pages(2<<20), nil), codes.FailedPrecondition)
	plain := p.idle("plain")
	if err := plain.update(pages(0), nil); err != nil {
		t.Fatal(err)
	}
	if got := plain.details().Warnings; len(got) != 1 {
		t.Errorf("after an update the status warns %q", got)
	}
}
