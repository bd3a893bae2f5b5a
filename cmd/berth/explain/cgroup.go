package explain

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"berth/oci/cgroup"
	"berth/oci/shimapi"
)

const (
	// throttledShare of its periods, in percent, is more than bursts explain.
	throttledShare = 25
	// nearLimit is the share of a limit, in percent, that counts as reached.
	nearLimit = 95
	// pressed is a share of time, in percent over a minute, that tasks stood still.
	pressed = 10
)

// group reads a container's cgroup: the directories by controller of cgroups(7),
// or on v2 one under "".
type group map[string]string

// v2 tells of one hierarchy; a hybrid host has the controllers' beside it.
func (g group) v2() bool { return g[""] != "" && len(g) == 1 }

func (g group) dir(controller string) string {
	if g.v2() {
		return g[""]
	}
	return g[controller]
}

// file is the path of the first of names that is there: v1 and v2 have names of
// their own for the same thing.
func (g group) file(controller string, names ...string) string {
	dir := g.dir(controller)
	if dir == "" {
		return ""
	}
	for _, n := range names {
		if info, err := os.Lstat(filepath.Join(dir, n)); err == nil && info.Mode().IsRegular() {
			return filepath.Join(dir, n)
		}
	}
	return ""
}

// number reads a file of one number; "max", and v1's number for it, are ok=false.
func number(path string) (n uint64, ok bool) {
	b, err := readKernel(path)
	if err != nil {
		return 0, false
	}
	n, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil && n < math.MaxInt64/2
}

// keyed reads a file of lines "key number".
func keyed(path string) map[string]uint64 {
	b, err := readKernel(path)
	if err != nil {
		return nil
	}
	out := make(map[string]uint64)
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[key] = n
		}
	}
	return out
}

// cgroupLayer tells of limits, and of what has met them.
type cgroupLayer struct {
	subject
	*section
}

func (l cgroupLayer) tell() {
	for _, limit := range l.ctr.Unenforced {
		l.fact("warning", filepath.Join(l.ctr.dir, "container.json"), "%s", limit)
	}
	g := group(l.ctr.fact.CgroupPaths)
	if !l.proc.alive() {
		l.fact("gone", "", "it went with the process")
		l.kills(l.ctr.fact.OOMKills, filepath.Join(l.ctr.dir, shimapi.RecordName))
		l.pids(g)
		return
	}
	l.memory(g)
	l.cpu(g)
	l.pids(g)
	l.pressure(g)
}

// memory tells cache from what the container needs: the working set is usage
// less inactive page cache, as the kubelet has it. Active cache is in it, but is
// taken back before anything is killed; shared memory counts as cache and is not.
func (l cgroupLayer) memory(g group) {
	usageFile := g.file("memory", "memory.current", "memory.usage_in_bytes")
	usage, ok := number(usageFile)
	if !ok {
		l.fact("memory", g["memory"], "not counted on this machine")
		return
	}
	st := keyed(g.file("memory", "memory.stat"))
	anon, cache, inactive, shared := st["anon"], st["file"], st["inactive_file"], st["shmem"]
	if !g.v2() {
		anon, cache, inactive, shared = st["total_rss"], st["total_cache"], st["total_inactive_file"], st["total_shmem"]
	}
	working := usage - min(usage, inactive)
	needed := usage - min(usage, cache-min(cache, shared))
	limitFile := g.file("memory", "memory.max", "memory.limit_in_bytes")
	limit, limited := number(limitFile)
	l.fact("memory limit", limitFile, "%s", l.ctr.memoryLimit())
	l.fact("memory", usageFile, "%s used: %s anonymous, %s page cache; working set %s", Bytes(usage), Bytes(anon), Bytes(cache), Bytes(working))
	switch {
	case limited && needed*100 >= limit*nearLimit:
		l.find(likely, "raise the limit before the kernel kills", "the working set is at the limit of %s", Bytes(limit))
	case limited && usage*100 >= limit*nearLimit:
		l.find(hint, "nothing: the kernel takes it back when it is needed", "memory is at its limit, but %s of it is page cache", Bytes(cache))
	}
	file := g.file("memory", "memory.events", "memory.oom_control")
	l.kills(keyed(file)["oom_kill"], file)
}

// memoryLimit is the limit in effect, or when that is gone the one in the spec.
func (c *container) memoryLimit() string {
	if n, ok := number(group(c.fact.CgroupPaths).file("memory", "memory.max", "memory.limit_in_bytes")); ok {
		return Bytes(n)
	}
	if lin := c.Spec.Linux; lin != nil && lin.Resources != nil && lin.Resources.Memory != nil && lin.Resources.Memory.Limit != nil && *lin.Resources.Memory.Limit > 0 {
		return Bytes(uint64(*lin.Resources.Memory.Limit))
	}
	return "none of its own: see those above it, and the machine's"
}

func (l cgroupLayer) kills(n uint64, from string) {
	if n == 0 {
		return
	}
	l.fact("OOM kills", from, "%d", n)
	if !l.ctr.fact.OOMKilled {
		l.find(likely+1, "raise the limit, or let it start fewer processes", "the kernel killed processes of it for memory (%d), but not the first one", n)
	}
}

func (l cgroupLayer) cpu(g group) {
	quota, from := g.quota()
	l.fact("CPU limit", from, "%s", quota)
	file := g.file("cpu", "cpu.stat")
	st := keyed(file)
	stood := time.Duration(st["throttled_usec"]) * time.Microsecond
	if !g.v2() {
		stood = time.Duration(st["throttled_time"])
	}
	periods, throttled := st["nr_periods"], st["nr_throttled"]
	if periods == 0 {
		return
	}
	l.fact("throttled", file, "in %d of %d periods, %s in all", throttled, periods, stood.Round(time.Millisecond))
	if throttled*100 > periods*throttledShare {
		l.find(possible, "raise the CPU limit, or drop it and keep the request", "it is held back by its CPU limit of %s", quota)
	}
}

// quota is the CPU limit in CPUs.
func (g group) quota() (text, from string) {
	from = g.file("cpu", "cpu.max", "cpu.cfs_quota_us")
	b, err := readKernel(from)
	if err != nil {
		return "not counted on this machine", from
	}
	fields := strings.Fields(string(b))
	if !g.v2() {
		period, _ := number(g.file("cpu", "cpu.cfs_period_us"))
		fields = append(fields, strconv.FormatUint(period, 10))
	}
	if len(fields) != 2 || fields[0] == "max" || fields[0] == "-1" {
		return "none", from
	}
	quota, err1 := strconv.ParseFloat(fields[0], 64)
	period, err2 := strconv.ParseFloat(fields[1], 64)
	if err1 != nil || err2 != nil || period == 0 {
		return string(b), from
	}
	return fmt.Sprintf("%.3g CPUs", quota/period), from
}

// pidsLimit is one that fork can meet: the container's own or one above it, as a
// pod's is.
type pidsLimit struct {
	dir        string
	now, limit uint64 // math.MaxUint64: none
	refused    uint64 // forks; see [cgroup.RefusedForks]
}

func (p pidsLimit) room() uint64 {
	if p.limit == math.MaxUint64 {
		return p.limit
	}
	return p.limit - min(p.limit, p.now)
}

// pidsLimits looks from the container's cgroup upwards to the root, which has none.
// The container's may be gone: systemd removes one with its last process.
func (g group) pidsLimits() (all []pidsLimit) {
	for dir := g.dir("pids"); len(dir) > 1; dir = filepath.Dir(dir) {
		now, ok := number(filepath.Join(dir, "pids.current"))
		if !ok && len(all) > 0 {
			break
		}
		if !ok {
			continue
		}
		limit, ok := number(filepath.Join(dir, "pids.max"))
		if !ok {
			limit = math.MaxUint64
		}
		all = append(all, pidsLimit{dir, now, limit, cgroup.RefusedForks(dir)})
	}
	return all
}

// ownPidsLimit is that of a container whose cgroup is gone.
func (c *container) ownPidsLimit(g group) (pidsLimit, bool) {
	own := pidsLimit{dir: g.dir("pids"), limit: math.MaxUint64, refused: c.fact.RefusedForks}
	if lin := c.Spec.Linux; lin != nil && lin.Resources != nil {
		if p := lin.Resources.Pids; p != nil && p.Limit != nil && *p.Limit > 0 {
			own.limit = uint64(*p.Limit)
		}
		if n, err := strconv.ParseUint(lin.Resources.Unified["pids.max"], 10, 64); err == nil {
			own.limit = n
		}
	}
	_, err := os.Stat(own.dir)
	return own, own.dir != "" && errors.Is(err, fs.ErrNotExist)
}

// tightest has the least room, and no limit when none has.
func tightest(all []pidsLimit) pidsLimit {
	t := pidsLimit{limit: math.MaxUint64}
	for _, one := range all {
		if t.dir == "" || one.room() < t.room() {
			t = one
		}
	}
	return t
}

func (l cgroupLayer) pids(g group) {
	if !l.proc.alive() {
		l.pidsOfEnded(g)
		return
	}
	all := g.pidsLimits()
	t := tightest(all)
	counted := len(all) > 0 && (all[0].dir == g.dir("pids") || t.limit < math.MaxUint64)
	switch {
	case !counted:
		l.fact("pids", g.dir("pids"), "not counted on this machine")
	case t.limit == math.MaxUint64:
		l.fact("pids", filepath.Join(t.dir, "pids.max"), "%d, no limit", all[0].now)
	default:
		l.pidsLimit(t, max(all[0].refused, t.refused), t.dir != g.dir("pids"))
	}
}

// pidsOfEnded is pids of a container that has ended, whose cgroup is gone: its shim has recorded
// what was refused, and the limits above may still be there.
func (l cgroupLayer) pidsOfEnded(g group) {
	all := g.pidsLimits()
	if own, ok := l.ctr.ownPidsLimit(g); ok {
		all = append([]pidsLimit{own}, all...)
	}
	t := tightest(all)
	switch {
	case t.limit < math.MaxUint64:
		l.pidsLimit(t, max(all[0].refused, t.refused), t.dir != g.dir("pids"))
	case len(all) > 0 && all[0].refused > 0:
		l.find(likely+1, "raise the pids limit, or look for what forks", "%d forks were refused by a pids limit that is gone", all[0].refused)
	}
}

func (l cgroupLayer) pidsLimit(t pidsLimit, refused uint64, above bool) {
	whose := map[bool]string{true: ", of the cgroup above,", false: ""}[above]
	l.fact("pids", filepath.Join(t.dir, "pids.max"), "%d of %d%s; %d forks were refused", t.now, t.limit, strings.TrimSuffix(whose, ","), refused)
	if refused > 0 || t.now >= t.limit {
		l.find(likely+1, "raise the pids limit, or look for what forks", "the pids limit of %d%s was reached: fork fails inside with EAGAIN", t.limit, whose)
	}
}

// pressure reads how long all tasks stood still (PSI, kernel's psi.rst); only v2
// has it by cgroup.
func (l cgroupLayer) pressure(g group) {
	for _, what := range []string{"memory", "io"} {
		file := g.file("", what+".pressure")
		b, err := readKernel(file)
		if err != nil {
			continue
		}
		_, full, _ := strings.Cut(string(b), "full ")
		var avg10, avg60 float64
		if n, _ := fmt.Sscanf(full, "avg10=%f avg60=%f", &avg10, &avg60); n != 2 {
			continue
		}
		l.fact(what+" pressure", file, "all tasks stood still %.1f %% of the last minute", avg60)
		if avg60 >= pressed {
			l.find(possible, "give it more, or less to do", "it waits for %s %.0f %% of the time", what, avg60)
		}
	}
}
