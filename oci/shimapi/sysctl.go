package shimapi

import (
	"fmt"
	"strings"
)

// SysctlPath turns a sysctl's name into its path below /proc/sys, as sysctl(8)
// does: dots separate, unless a slash comes first, then slashes do and a dot
// stands for itself. It refuses names that leave the tree.
func SysctlPath(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("sysctl %q is no name of a setting", name)
		}
	}
	if strings.ContainsAny(path, "=\x00") {
		return "", fmt.Errorf("sysctl %q is no name of a setting", name)
	}
	return path, nil
}
