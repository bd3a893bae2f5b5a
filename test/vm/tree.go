package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const suite = "trixie"

// packages are what the guest has beside the minimal system: what boots it, what tests
// and the node tests call, and QEMU, which runs on the host out of this tree.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "udev", "linux-image-cloud-amd64", "kmod", "apparmor",
	"iproute2", "iptables", "nftables", "procps", "util-linux", "ca-certificates", "busybox-static",
	"jq", "socat", "qemu-system-x86", "seabios", "selinux-policy-default", "policycoreutils",
}

// fstab and the units of the guest, by their paths in the tree.
var guestFiles = map[string]string{
	"etc/fstab":        "/dev/vda / ext4 rw 0 1\n/dev/vdb /mnt/share ext4 rw,nofail,x-systemd.device-timeout=10min,defcontext=" + shareLabel + " 0 0\n",
	"usr/bin/sudo":     "#!/bin/sh\nexec \"$@\"\n", // critest loads AppArmor profiles by it
	"etc/machine-id":   "uninitialized\n",
	"mnt/share/.mount": "",
	"etc/hostname":     "guest\n",
	"etc/hosts":        "127.0.0.1 localhost guest\n",
	"etc/systemd/system/berth-suites.service": `[Unit]
Description=Suites of tests
Requires=dev-virtio\x2dports-` + portName + `.device
After=dev-virtio\x2dports-` + portName + `.device multi-user.target
FailureAction=poweroff-force

[Service]
Type=oneshot
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
TimeoutStartSec=infinity
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/mnt/share/vm -guest /mnt/share

[Install]
WantedBy=multi-user.target
`,
}

// masked units would only cost time.
var masked = []string{"apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer", "serial-getty@ttyS0.service", "systemd-timesyncd.service"}

// recipe tells trees and disks apart that were made by different versions of this file.
func recipe() string {
	sum := sha256.Sum256(fmt.Append(nil, suite, packages, guestFiles, masked)) // maps are printed in order
	return hex.EncodeToString(sum[:])
}

// makeTree makes the tree unless it is there, and the disk of it.
func makeTree(ctx context.Context, cache string) error {
	tree, disk, made := filepath.Join(cache, "tree"), filepath.Join(cache, "disk.img"), filepath.Join(cache, "recipe")
	if was, err := os.ReadFile(made); err != nil || string(was) != recipe() {
		if err := errors.Join(os.RemoveAll(tree), os.RemoveAll(disk), os.WriteFile(made, []byte(recipe()), 0o644)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(tree); errors.Is(err, os.ErrNotExist) {
		if err := bootstrap(ctx, tree); err != nil {
			return fmt.Errorf("Debian tree: %w", err)
		}
	}
	if _, err := os.Stat(disk); err == nil {
		return nil
	}
	if err := configure(ctx, tree); err != nil {
		return err
	}
	return makeImage(ctx, disk, tree, "12G")
}

func bootstrap(ctx context.Context, tree string) error {
	half := tree + ".half"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	mirror, err := aptMirror()
	if err != nil {
		return err
	}
	tell("debootstrap of %s, once", suite)
	if err := command(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), suite, half, mirror); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(half, "var/cache/apt/archives")); err != nil {
		return err
	}
	return os.Rename(half, tree)
}

// aptMirror is where this host's own packages come from.
func aptMirror() (string, error) {
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if uri := firstURI(f); uri != "" {
				return uri, nil
			}
		}
	}
	return "", errors.New("apt has no sources on this host, of which the first would be asked for Debian 13")
}

func firstURI(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		words := strings.Fields(in.Text())
		if len(words) < 2 || words[0] != "URIs:" && words[0] != "deb" {
			continue
		}
		for _, w := range words[1:] {
			if strings.HasPrefix(w, "http://") || strings.HasPrefix(w, "https://") {
				return w
			}
		}
	}
	return ""
}

func configure(ctx context.Context, tree string) error {
	for path, text := range guestFiles {
		file := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			return err
		}
	}
	if err := command(ctx, "chroot", slices.Concat([]string{tree, "systemctl", "mask"}, masked)...); err != nil {
		return err
	}
	if err := command(ctx, "chroot", tree, "systemctl", "enable", "berth-suites.service"); err != nil {
		return err
	}
	return labelTree(ctx, tree)
}

// makeImage makes an ext4 image of a directory's files, with room up to size.
func makeImage(ctx context.Context, image, from, size string) error {
	half := image + ".half"
	if err := os.Remove(half); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", from, half, size); err != nil {
		return err
	}
	return os.Rename(half, image)
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, lastLines(string(out), 15))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// bind makes a host's directory visible in the tree, until this mount namespace ends.
func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}

func tell(format string, args ...any) { fmt.Fprintf(os.Stderr, "vm: "+format+"\n", args...) }
