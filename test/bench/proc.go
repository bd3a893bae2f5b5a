package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// kind of a process in a runtime's tree.
type kind int

const (
	kindDaemon   kind = iota
	kindShim          // berth-shim, containerd-shim
	kindPod           // pause, and whatever else a pod has besides its workload
	kindWorkload      // the container's own process
)

// process is one process of a runtime under test.
type process struct {
	pid  int
	comm string
	kind kind
}

// rawProcess is what /proc says of a process, before it is known whose it is.
type rawProcess struct {
	ppid          int
	comm, cmdline string
	marked        string // value of runtimeEnv in its environment
}

// processes lists the runtime's tree: what carries its mark or its directory,
// and what descends from that.
func (r *runtimeUnderTest) processes() []process {
	all := readProcesses()
	var found []process
	for pid, p := range all {
		if r.owns(all, pid) {
			found = append(found, process{pid: pid, comm: p.comm, kind: r.kindOf(pid, p)})
		}
	}
	return found
}

func (r *runtimeUnderTest) owns(all map[int]rawProcess, pid int) bool {
	for depth := 0; pid > 1 && depth < 100; depth++ {
		p, ok := all[pid]
		if !ok {
			return false
		}
		if p.marked != "" {
			return p.marked == r.name
		}
		if strings.Contains(p.cmdline, r.dir+"/") {
			return true
		}
		pid = p.ppid
	}
	return false
}

func (r *runtimeUnderTest) kindOf(pid int, p rawProcess) kind {
	switch {
	case r.cmd != nil && pid == r.cmd.Process.Pid:
		return kindDaemon
	case strings.Contains(p.cmdline, workloadMark):
		return kindWorkload
	case strings.Contains(p.comm, "shim") || strings.Contains(p.cmdline, "shim"):
		return kindShim
	}
	return kindPod
}

func readProcesses() map[int]rawProcess {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := map[int]rawProcess{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all[pid] = p
		}
	}
	return all
}

// readProcess is false for a process that ended, zombies included.
func readProcess(pid int) (rawProcess, bool) {
	stat, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return rawProcess{}, false
	}
	// The command name is in parentheses and may hold any byte.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return rawProcess{}, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 2 || fields[0] == "Z" {
		return rawProcess{}, false
	}
	p := rawProcess{comm: string(stat[open+1 : end])}
	p.ppid, _ = strconv.Atoi(fields[1])
	cmdline, _ := os.ReadFile(procFile(pid, "cmdline"))
	p.cmdline = string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
	environ, _ := os.ReadFile(procFile(pid, "environ"))
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(runtimeEnv+"=")); ok {
			p.marked = string(value)
		}
	}
	return p, true
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// field reads the number after "name:" of a /proc file such as smaps_rollup,
// status or io.
func field(pid int, file, name string) (int64, error) {
	data, err := os.ReadFile(procFile(pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no field %s", procFile(pid, file), name)
}

// pss is the process's proportional share of memory in MiB.
func pss(pid int) (float64, error) {
	kb, err := field(pid, "smaps_rollup", "Pss")
	return float64(kb) / 1024, err
}

// cpuMillis is the CPU time a process has used, in milliseconds, from the
// scheduler's nanosecond counters of its threads. utime+stime would be cut to
// ticks of 10 ms, which is more than an idle daemon uses.
func cpuMillis(pid int) float64 {
	tasks, err := filepath.Glob(procFile(pid, "task/*/schedstat"))
	if err != nil {
		return 0
	}
	var total float64
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // the thread ended
		}
		ns, _ := strconv.ParseFloat(strings.Fields(string(data) + " 0")[0], 64)
		total += ns / 1e6
	}
	return total
}
