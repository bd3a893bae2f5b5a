package thread

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// PivotRoot makes dir the root of the calling thread, and detaches all other mounts of its
// mount namespace. dir is a mount, and the namespace is the thread's own with nothing in it
// that propagates elsewhere. See "pivot_root(".", ".")" in pivot_root(2).
func PivotRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil { // the old root, which lies on top
		return fmt.Errorf("detach the host's mounts: %w", err)
	}
	return unix.Chdir("/")
}
