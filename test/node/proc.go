package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is a line of the process table.
type process struct {
	PID, Parent int
	State       string
	Command     string
}

func (p process) String() string {
	return fmt.Sprintf("process %d (parent %d, state %s): %s", p.PID, p.Parent, p.State, p.Command)
}

// descendants lists the living processes below pid, parents first.
func descendants(pid int) ([]process, error) {
	children := map[int][]process{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		if p, ok := readProcess(d); ok {
			children[p.Parent] = append(children[p.Parent], p)
		}
	}
	var out []process
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, c := range children[queue[0]] {
			queue = append(queue, c.PID)
			if c.State != "Z" {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// readProcess is false for a process that has ended meanwhile.
func readProcess(dir string) (process, bool) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	// The name is in parentheses and may hold anything, parentheses too.
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if open < 0 || end < 0 {
		return process{}, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	p := process{State: fields[0], Command: string(stat[open : end+1])}
	p.PID, _ = strconv.Atoi(filepath.Base(dir))
	p.Parent, _ = strconv.Atoi(fields[1])
	if cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(cmdline) > 0 {
		p.Command = strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")
	}
	return p, true
}
