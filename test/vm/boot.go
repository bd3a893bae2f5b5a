package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// accelerator is KVM when this process may use it, or emulation.
func accelerator() []string {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		_ = f.Close() // nothing was asked of it
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,-svm"}
}

// kernelArgs have long timeouts, because an emulated machine on a busy host is slow.
const kernelArgs = "console=ttyS0 root=/dev/vda rw panic=-1 quiet mitigations=off systemd.show_status=0 " +
	"systemd.default_timeout_start_sec=600 systemd.default_device_timeout_sec=600 modprobe.blacklist=kvm,kvm_amd,kvm_intel"

// boot runs the guest until it powers off or ctx ends, and returns the results that it
// told. The logs that it wrote are in the cache's out/.
func boot(ctx context.Context, o options) (*results, error) {
	tree := filepath.Join(o.cache, "tree")
	inside := filepath.Join(tree, "vm")
	for from, to := range map[string]string{"/proc": filepath.Join(tree, "proc"), "/dev": filepath.Join(tree, "dev"), o.cache: inside} {
		if err := bind(from, to); err != nil {
			return nil, err
		}
	}
	kernel, err := theOnly(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	initrd, err := theOnly(filepath.Join(tree, "boot", "initrd.img-*"))
	if err != nil {
		return nil, err
	}
	args := append(accelerator(), "-m", "6144", "-smp", strconv.Itoa(o.cpus), "-display", "none", "-monitor", "none", "-nic", "none",
		"-kernel", kernel, "-initrd", initrd,
		"-append", kernelArgs+" "+o.append,
		"-drive", "file=/vm/disk.img,if=virtio,format=raw,cache=unsafe,snapshot=on",
		"-drive", "file=/vm/share.img,if=virtio,format=raw,cache=unsafe",
		"-serial", "file:/vm/console.log",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=results,signal=off", "-device", "virtserialport,chardev=results,name="+portName)
	if !o.reboots {
		args = append(args, "-no-reboot") // after a panic it ends
	}
	began := time.Now()
	c := exec.Command("/usr/bin/qemu-system-x86_64", args...)
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: tree}
	c.Dir, c.Env = "/", []string{"PATH=/usr/bin:/bin", "HOME=/", "TMPDIR=/vm"}
	c.Stderr = os.Stderr
	// It stays open: at its end QEMU would take the port as one that nobody listens to, and
	// the guest would wait for a listener with its first result.
	if _, err := c.StdinPipe(); err != nil {
		return nil, err
	}
	told, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("QEMU: %w", err)
	}
	tell("the guest boots, with %s", args[1])
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Signal(unix.SIGKILL) })
	defer stop()
	r := &results{Accelerator: args[1]}
	r.read(bufio.NewScanner(told))
	ended := c.Wait()
	r.Seconds = time.Since(began).Seconds()
	if ctx.Err() != nil {
		r.Broken = "the time was over, and the guest was ended"
	} else if ended != nil {
		r.Broken = "QEMU: " + ended.Error()
	}
	return r, bringBack(o.cache)
}

// bringBack copies what the guest wrote to out/, with what its console said. The file
// system may not have been unmounted, so its journal is replayed first.
func bringBack(cache string) error {
	image, out := filepath.Join(cache, "share.img"), filepath.Join(cache, "out")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	ctx := context.Background()                                // also when the time is over
	_ = exec.CommandContext(ctx, "e2fsck", "-fy", image).Run() // its exit code tells what it repaired
	if err := command(ctx, "debugfs", "-R", "rdump /out "+cache, image); err != nil {
		return fmt.Errorf("logs of the guest: %w", err)
	}
	return os.Rename(filepath.Join(cache, "console.log"), filepath.Join(out, "console.log"))
}

func theOnly(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%d files are %s, want one: remove the tree to make it anew", len(found), pattern)
	}
	return filepath.Join("/boot", filepath.Base(found[0])), nil
}

// read notes results until the guest's port closes, and prints them.
func (r *results) read(in *bufio.Scanner) {
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var one result
		if err := json.Unmarshal(in.Bytes(), &one); err != nil {
			tell("not understood: %q", in.Text())
			continue
		}
		r.Results = append(r.Results, one)
		if one.Outcome != passed {
			tell("%-7s %s %s (%.0f s): %s", one.Outcome, one.Suite, one.Test, one.Seconds, clip(one.Message))
		} else {
			tell("%-7s %s %s (%.0f s)", one.Outcome, one.Suite, one.Test, one.Seconds)
		}
	}
}
