package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/shimapi"
)

// update changes limits. Those that the request does not name stay as they are.
func (cs *containers) update(_ *call, r shimapi.UpdateRequest) (any, error) {
	ctr, err := cs.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	if r.Resources == nil {
		return nil, fault(shimapi.KindInvalid, "update names no resources")
	}
	err = ctr.setLimits(r)
	if err != nil && !ctr.process.alive() { // else the end is not the reason, and not waited for
		err = ctr.faultSince(err)
	}
	return nil, err
}

// setLimits changes the limits of a container that has not ended. Its end is not recorded
// meanwhile.
func (ctr *container) setLimits(r shimapi.UpdateRequest) error {
	ctr.op.Lock()
	defer ctr.op.Unlock()
	if ctr.task != nil {
		return ctr.updateTask(r)
	}
	config := ctr.lc.Config()
	// Copies, because libcontainer restores its own configuration when it can't set these.
	group, limits := *config.Cgroups, *config.Cgroups.Resources
	mergeCPU(&limits, r.Resources.CPU)
	mergeMemory(&limits, r.Resources.Memory)
	mergeRest(&limits, r.Resources)
	group.Resources = &limits
	config.Cgroups = &group
	was := config.OomScoreAdj
	if r.OOMScoreAdj != nil {
		config.OomScoreAdj = r.OOMScoreAdj // for later execs
	}
	if err := ctr.lc.Set(config); err != nil {
		return fault(updateKind(err), "update limits: %w", err)
	}
	if r.OOMScoreAdj == nil {
		return nil
	}
	return ctr.groups.adjustOOM(was, *r.OOMScoreAdj)
}

// adjustRounds bounds how often the processes are listed again, because one that still had
// the old value may have forked meanwhile.
const adjustRounds = 10

// adjustOOM changes oom_score_adj of every process of the container that has the old value.
// A process with another value has chosen it itself, as servers do for their workers.
func (g group) adjustOOM(was *int, to int) error {
	if was == nil || *was == to {
		return nil
	}
	for range adjustRounds {
		changed, err := adjustOnce(g.dir(), strconv.Itoa(*was), strconv.Itoa(to))
		if err != nil || !changed {
			return err
		}
	}
	return nil
}

func adjustOnce(dir, was, to string) (changed bool, err error) {
	err = cgroup.Each(dir, func(m cgroup.Member) error {
		did, err := adjustProcess(m, was, to)
		if err != nil {
			return fmt.Errorf("oom_score_adj of process %d: %w", m.PID, err)
		}
		changed = changed || did
		return nil
	})
	return changed, err
}

func adjustProcess(m cgroup.Member, was, to string) (changed bool, err error) {
	f, err := os.OpenFile("/proc/"+strconv.Itoa(m.PID)+"/oom_score_adj", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // an error of a write was returned by the write
	if !m.Exists() {
		return false, nil // it was reaped, and the file may be of another process with its PID
	}
	var have [16]byte
	n, err := f.Read(have[:])
	if err == nil && strings.TrimSpace(string(have[:n])) == was {
		_, err = f.WriteAt([]byte(to), 0)
		changed = true
	}
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return changed, err
}

// updateKind is KindInvalid for values that the kernel refuses, and KindInternal for other
// failures. libcontainer offers only the text of the error to go by.
func updateKind(err error) shimapi.Kind {
	for _, refusal := range []string{"invalid argument", "device or resource busy", "numerical result out of range", "rejecting", "unable to set memory limit"} {
		if strings.Contains(err.Error(), refusal) {
			return shimapi.KindInvalid
		}
	}
	return shimapi.KindInternal
}

func mergeCPU(to *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.Shares != nil {
		to.CpuShares = *c.Shares
		to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	put(&to.CpuQuota, c.Quota)
	put(&to.CpuPeriod, c.Period)
	put(&to.CpuRtRuntime, c.RealtimeRuntime)
	put(&to.CpuRtPeriod, c.RealtimePeriod)
	if c.Burst != nil {
		to.CpuBurst = c.Burst
	}
	if c.Idle != nil {
		to.CPUIdle = c.Idle
	}
	if c.Cpus != "" {
		to.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		to.CpusetMems = c.Mems
	}
}

func mergeMemory(to *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	put(&to.Memory, m.Limit)
	put(&to.MemoryReservation, m.Reservation)
	put(&to.MemorySwap, m.Swap)
	put(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		to.MemorySwap = 0 // no limit of memory, so none of swap either
	}
}

func mergeRest(to *cgroups.Resources, r *specs.LinuxResources) {
	if r.Pids != nil && r.Pids.Limit != nil {
		to.PidsLimit = r.Pids.Limit
	}
	if r.BlockIO != nil {
		put(&to.BlkioWeight, r.BlockIO.Weight)
		put(&to.BlkioLeafWeight, r.BlockIO.LeafWeight)
	}
	if len(r.HugepageLimits) > 0 {
		to.HugetlbLimit = nil
		for _, h := range r.HugepageLimits {
			to.HugetlbLimit = append(to.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
		}
	}
	if r.Unified != nil {
		to.Unified = r.Unified
	}
}

func put[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
