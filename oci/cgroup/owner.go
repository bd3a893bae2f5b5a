package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mountPoint is where every system mounts the hierarchies.
	mountPoint = "/sys/fs/cgroup"
	// ownerAttr is an extended attribute, which a cgroup keeps until it is removed. Only
	// root of the host can set or read one in the namespace trusted, see xattr(7).
	ownerAttr = "trusted.berth.state"
)

// madeForPod are the cgroups that the daemon makes at the top of a hierarchy for pods
// without a parent of their own. The expression is compiled when first needed, because the first
// process of every container and exec also runs the initialization of this package.
var madeForPod = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^berth-[0-9a-f]{13}$`) })

// Mark notes in the cgroups at dirs, those of them that exist, which daemon they were made
// for: the one with that state directory. The name of a cgroup has an ID of a pod, which
// tells nothing once the pod's record is gone. It is done as far as it can be.
func Mark(dirs []string, state string) {
	for _, dir := range dirs {
		_ = unix.Setxattr(dir, ownerAttr, []byte(state), 0) // not marked, it is nobody's
	}
}

// MarkedFor finds the cgroups at the top of the hierarchies that were made for pods of the
// daemon with that state directory: by their name, all directories of that name, in
// whichever hierarchy. It is enough that one of them is marked.
func MarkedFor(state string) map[string][]string {
	all, marked := map[string][]string{}, map[string]bool{}
	for _, dir := range Named("berth-*") {
		name := filepath.Base(dir)
		if !madeForPod().MatchString(name) {
			continue
		}
		all[name] = append(all[name], dir)
		value := make([]byte, unix.PathMax)
		if n, err := unix.Getxattr(dir, ownerAttr, value); err == nil && string(value[:n]) == state {
			marked[name] = true
		}
	}
	for name := range all {
		if !marked[name] {
			delete(all, name)
		}
	}
	return all
}

// Named finds the cgroups at the top of the hierarchies whose names match a pattern of
// [filepath.Match].
func Named(pattern string) []string {
	var out []string
	for _, top := range []string{mountPoint, mountPoint + "/*"} {
		found, _ := filepath.Glob(filepath.Join(top, pattern)) // no error with the patterns of berth
		for _, dir := range found {
			if !isLink(filepath.Dir(dir)) {
				out = append(out, dir)
			}
		}
	}
	return out
}

// isLink is true of the names of joined controllers.
func isLink(dir string) bool {
	st, err := os.Lstat(dir)
	return err == nil && st.Mode()&os.ModeSymlink != 0
}

// RemoveTree removes an empty cgroup and the empty ones below it. What is in use stays,
// and is the error.
func RemoveTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := RemoveTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// PodPart is the part of a pod's ID that the name of its cgroup has.
func PodPart(name string) string { return strings.TrimPrefix(name, "berth-") }

// RemoveEmptied is RemoveTree for a cgroup whose processes have just ended. The kernel
// calls it busy until somebody has waited for the last of them; nothing tells when.
func RemoveEmptied(dir string, within time.Duration) error {
	deadline := time.Now().Add(within)
	err := RemoveTree(dir)
	for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
		err = RemoveTree(dir)
	}
	return err
}
