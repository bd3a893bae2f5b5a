package main

import (
	"os"
	"path/filepath"
	"strings"
)

// searchLogs looks for what no program may ever log: races and panics.
func (p *phase) searchLogs() {
	logs, _ := filepath.Glob(filepath.Join(p.node.State, "shims", "*", "log"))
	for _, file := range append(logs, p.node.LogFile) {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // its shim has left
		}
		for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "A call panicked"} {
			if at := strings.Index(string(data), sign); at >= 0 {
				p.Problem("%s has %q:\n%s", filepath.Base(file), sign, data[at:min(len(data), at+4000)])
			}
		}
	}
}

// keepLog copies berthd's log to where whoever started this can read it.
func (p *phase) keepLog() {
	data, err := os.ReadFile(p.node.LogFile)
	if err != nil {
		return
	}
	f, err := os.CreateTemp("", "berth-soak-*.log")
	if err == nil {
		_, err = f.Write(data)
		_ = f.Close()
		p.say("berthd's log is in " + f.Name())
	}
	if err != nil {
		p.say("berthd's log is lost: " + err.Error())
	}
}
