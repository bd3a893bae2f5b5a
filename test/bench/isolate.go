package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// benchDir is the tmpfs everything lives on. Short, because socket paths below
// it must stay under 108 bytes.
const benchDir = "/run/bench"

// isolate makes the process's new namespaces usable: mounts that do not
// propagate, a /proc of the new PID namespace, an empty /run and /var/lib, and
// the loopback up.
func isolate(binaries ...string) error {
	for _, b := range binaries {
		if strings.HasPrefix(b, "/run/") || strings.HasPrefix(b, "/var/lib/") {
			return fmt.Errorf("%s would be hidden: the bench mounts a tmpfs over /run and /var/lib; move it elsewhere", b)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib"} {
		// nr_inodes=0: sixteen thousand files an image, several images and two stores.
		if err := unix.Mount("bench", dir, "tmpfs", 0, "mode=755,size=75%,nr_inodes=0"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	for _, dir := range []string{benchDir, "/run/lock", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	return netlink.LinkSetUp(lo)
}
