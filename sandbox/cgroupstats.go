package sandbox

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupReader reads usage from a container's cgroup: cgroups(7) for v1, the
// kernel's cgroup-v2.rst for v2. A file that is not there is a value left out.
type cgroupReader struct {
	v2    bool
	paths map[string]string
	// seen keeps the files that were read, so that all that is told from one reader is of
	// the same moment and a file, which the kernel makes up each time, is read once; nil:
	// nothing is kept.
	seen map[fileKey]string
	open *keptFiles // descriptors from one call to the next; nil: none
}

// reader reads a cgroup once, for one goroutine.
func reader(v2 bool, paths map[string]string) cgroupReader {
	return cgroupReader{v2: v2, paths: paths, seen: make(map[fileKey]string, 8)}
}

// file reads one file of a controller, "" when it isn't there.
func (g cgroupReader) file(controller, name string) string {
	if g.v2 {
		controller = ""
	}
	dir, ok := g.paths[controller]
	if !ok {
		return ""
	}
	key := fileKey{controller, name}
	if text, ok := g.seen[key]; ok {
		return text
	}
	var text string
	if path := dir + "/" + name; g.open != nil && kept[key] {
		text = g.open.text(key, path)
	} else {
		text = readText(path)
	}
	if g.seen != nil {
		g.seen[key] = text
	}
	return text
}

func (g cgroupReader) value(controller, name string) *runtimeapi.UInt64Value {
	n, err := strconv.ParseUint(strings.TrimSpace(g.file(controller, name)), 10, 64)
	if err != nil {
		return nil
	}
	return &runtimeapi.UInt64Value{Value: n}
}

// keyed reads a file of "key value" lines.
func (g cgroupReader) keyed(controller, name string) keyedText {
	return keyedText(g.file(controller, name))
}

// keyedText is a text of "key value" lines. They are looked for, not taken apart: a file has
// dozens of them and a few are asked for.
type keyedText string

// get gives the value of a key, false when it has none that is a number.
func (t keyedText) get(key string) (uint64, bool) {
	key += " "
	for rest := string(t); rest != ""; {
		if value, ok := strings.CutPrefix(rest, key); ok {
			value, _, _ = strings.Cut(value, "\n")
			n, err := strconv.ParseUint(value, 10, 64)
			return n, err == nil
		}
		i := strings.Index(rest, "\n"+key)
		if i < 0 {
			break
		}
		rest = rest[i+1:]
	}
	return 0, false
}

// at is get with 0 for no value.
func (t keyedText) at(key string) uint64 {
	n, _ := t.get(key)
	return n
}

// noLimit is what limits of v1 that are none are above: they are near the largest page
// count.
const noLimit = math.MaxInt64 / 2

func u64(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (g cgroupReader) cpu(now time.Time) *runtimeapi.CpuUsage {
	usage := g.value("cpuacct", "cpuacct.usage")
	if g.v2 {
		if n, ok := g.keyed("", "cpu.stat").get("usage_usec"); ok {
			usage = u64(n * 1000)
		}
	}
	if usage == nil {
		return nil
	}
	return &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: usage, Psi: g.psi("cpu.pressure")}
}

// memory computes the working set as the kubelet does: usage less the page
// cache on the inactive list, which is the first to be reclaimed.
func (g cgroupReader) memory(now time.Time) *runtimeapi.MemoryUsage {
	usage, limit := g.value("memory", "memory.usage_in_bytes"), g.value("memory", "memory.limit_in_bytes")
	inactive, rss, faults, major := "total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"
	if g.v2 {
		usage, limit = g.value("", "memory.current"), g.value("", "memory.max")
		inactive, rss, faults, major = "inactive_file", "anon", "pgfault", "pgmajfault"
	}
	if usage == nil {
		return nil
	}
	st := g.keyed("memory", "memory.stat")
	working := usage.Value - min(usage.Value, st.at(inactive))
	out := &runtimeapi.MemoryUsage{
		Timestamp: now.UnixNano(), UsageBytes: usage, WorkingSetBytes: u64(working),
		RssBytes: u64(st.at(rss)), PageFaults: u64(st.at(faults)), MajorPageFaults: u64(st.at(major)),
		Psi: g.psi("memory.pressure"),
	}
	if limit != nil && limit.Value < noLimit {
		out.AvailableBytes = u64(limit.Value - min(limit.Value, working))
	}
	return out
}

// swap of v1 is in memory.stat: the difference of the two usage files, which are read
// one after the other, counts what the container took in between.
func (g cgroupReader) swap(now time.Time) *runtimeapi.SwapUsage {
	if !g.v2 {
		used, ok := g.keyed("memory", "memory.stat").get("total_swap")
		if !ok {
			return nil // the kernel does not account swap
		}
		return &runtimeapi.SwapUsage{Timestamp: now.UnixNano(), SwapUsageBytes: u64(used)}
	}
	used := g.value("", "memory.swap.current")
	if used == nil {
		return nil
	}
	out := &runtimeapi.SwapUsage{Timestamp: now.UnixNano(), SwapUsageBytes: used}
	if limit := g.value("", "memory.swap.max"); limit != nil {
		out.SwapAvailableBytes = u64(limit.Value - min(limit.Value, used.Value))
	}
	return out
}

func (g cgroupReader) io(now time.Time) *runtimeapi.IoUsage {
	psi := g.psi("io.pressure")
	if psi == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: now.UnixNano(), Psi: psi}
}

// psi reads a pressure file; only v2 has them (KEP-4205).
func (g cgroupReader) psi(name string) *runtimeapi.PsiStats {
	if !g.v2 {
		return nil
	}
	out := &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{}, Some: &runtimeapi.PsiData{}}
	found := false
	for line := range strings.Lines(g.file("", name)) {
		var kind string
		var d runtimeapi.PsiData
		if n, _ := fmt.Sscanf(line, "%s avg10=%f avg60=%f avg300=%f total=%d", &kind, &d.Avg10, &d.Avg60, &d.Avg300, &d.Total); n != 5 {
			continue
		}
		found = true
		into := out.Some
		if kind == "full" {
			into = out.Full
		}
		into.Avg10, into.Avg60, into.Avg300 = d.Avg10, d.Avg60, d.Avg300
		into.Total = d.Total * uint64(time.Microsecond) // the CRI has nanoseconds
	}
	if !found {
		return nil
	}
	return out
}

// maxCgroups is how many cgroups below one are looked into: a container with its own
// cgroup namespace may make any number.
const maxCgroups = 1024

// tree gives the directories of the cgroup and of those below it.
func (g cgroupReader) tree() (dirs []string) {
	dir := g.paths[""]
	for _, controller := range []string{"pids", "memory", "cpu"} { // of v1: any does
		if dir == "" {
			dir = g.paths[controller]
		}
	}
	if dir == "" {
		return nil
	}
	return addTree(nil, dir)
}

// addTree adds dir and what is below it, by name, up to maxCgroups. A directory with two links
// has none below it (stat(2) of cgroupfs), and need not be listed.
func addTree(dirs []string, dir string) []string {
	var st unix.Stat_t
	if len(dirs) == maxCgroups || unix.Lstat(dir, &st) != nil {
		return dirs // it went meanwhile
	}
	dirs = append(dirs, dir)
	if st.Nlink == 2 {
		return dirs
	}
	entries, _ := os.ReadDir(dir) // what can't be listed went meanwhile
	for _, e := range entries {
		if e.IsDir() {
			dirs = addTree(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs
}

// processes counts those in the cgroup and below it. pids.current would be the number
// of threads.
func (g cgroupReader) processes() (n uint64) {
	for _, dir := range g.tree() {
		_ = eachPiece(dir+"/cgroup.procs", func(piece []byte) bool { // one that went has none
			n += uint64(bytes.Count(piece, []byte{'\n'}))
			return true
		})
	}
	return n
}

// eachLine hands over the lines of a file, which may be long, until do says no. One
// that can't be read has none.
func eachLine(name string, do func(line string) bool) {
	f, err := os.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan() && do(sc.Text()); {
	}
}
