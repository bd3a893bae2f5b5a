package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const cgroupMount = "/sys/fs/cgroup"

// hierarchies lists the mounted cgroup trees: one on v2, several on v1.
func hierarchies() []string {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return []string{cgroupMount}
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() { // cpu,cpuacct style aliases are symlinks
			dirs = append(dirs, filepath.Join(cgroupMount, e.Name()))
		}
	}
	return dirs
}

// makeCgroup makes name in every hierarchy, as the kubelet does for a pod
// before it calls the runtime.
func makeCgroup(name string) error {
	for _, h := range hierarchies() {
		if err := makeCgroupIn(h, name); err != nil {
			return fmt.Errorf("make the cgroup of a pod: %w", err)
		}
	}
	return nil
}

// makeCgroupIn makes one directory at a time so that a v1 cpuset, which begins
// empty and refuses members, gets its parent's CPUs and nodes.
func makeCgroupIn(hierarchy, name string) error {
	dir := hierarchy
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if filepath.Base(hierarchy) != "cpuset" {
			continue
		}
		if err := inheritCpuset(parent, dir); err != nil {
			return err
		}
	}
	return nil
}

func inheritCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// accountDir is the v1 hierarchy that counts CPU time.
var accountDir = filepath.Join(cgroupMount, "cpuacct")

// enterAccount moves this process below the run's cgroup of the hierarchy that counts CPU
// time, and with it all that it starts. Runtimes and their pods are the only others there.
func enterAccount(run string) error {
	if _, err := os.Stat(filepath.Join(accountDir, "cpuacct.usage")); err != nil {
		return nil // cgroup v2, where a runtime's shims may lie elsewhere
	}
	dir := filepath.Join(accountDir, run, "bench")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// accounted is the CPU time that the run has used so far, ended processes included, or 0
// where [enterAccount] counts none.
func accounted(run string) time.Duration {
	data, err := os.ReadFile(filepath.Join(accountDir, run, "cpuacct.usage"))
	if err != nil {
		return 0
	}
	ns, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return time.Duration(ns)
}

// cgroupDirs lists every directory at or below name, deepest first.
func cgroupDirs(name string) []string {
	var dirs []string
	for _, h := range hierarchies() {
		_ = filepath.WalkDir(filepath.Join(h, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil // what vanishes meanwhile is no leftover
		})
	}
	return dirs
}

// removeCgroups removes name and all below it in every hierarchy. A cgroup with
// a process in it stays, and is named in the error.
func removeCgroups(name string) error {
	var errs []error
	for _, dir := range cgroupDirs(name) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
