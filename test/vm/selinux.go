package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// selinuxArgs boot with SELinux instead of AppArmor, permissive until the suite begins:
// the policy does not know the service that runs the suites. The kernel's
// log keeps all that it denies.
const selinuxArgs = " security=selinux selinux=1 enforcing=0 log_buf_len=16M sysctl.kernel.printk_ratelimit=0"

// shareLabel is what files of the share have that have no label of their own, as programs
// of /usr have it.
const shareLabel = "system_u:object_r:bin_t:s0"

// engineLabel is what an administrator gives berth's programs, see server/THREATMODEL.md.
const engineLabel = "system_u:object_r:dockerd_exec_t:s0"

// hostPathBoolean lets container runtimes mount all directories of the host in containers.
const hostPathBoolean = "container_mounton_non_security"

// enforce labels berth's programs, as an administrator would, and makes the kernel deny
// what the policy does not allow.
func (g *guest) enforce(ctx context.Context) error {
	if !selinux.GetEnabled() {
		return errors.New("the guest has booted without SELinux")
	}
	for _, p := range []string{"berthd", "berth-shim"} {
		if err := selinux.SetFileLabel(filepath.Join(g.bundle, "bin", p), engineLabel); err != nil {
			return fmt.Errorf("label %s: %w", p, err)
		}
	}
	if err := command(ctx, "setsebool", hostPathBoolean, "on"); err != nil {
		return err
	}
	if g.plan.Permissive {
		return nil
	}
	return selinux.SetEnforceMode(selinux.Enforcing)
}

// kernelLog is room for the kernel's log, see selinuxArgs.
const kernelLog = 16 << 20

// denied writes what the kernel has denied to denied.log. The program dmesg may not write
// there.
func (g *guest) denied() error {
	text := make([]byte, kernelLog)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, text)
	if err != nil {
		return fmt.Errorf("log of the kernel: %w", err)
	}
	log, err := g.log("selinux", "denied")
	if err != nil {
		return err
	}
	defer log.Close()
	for line := range bytes.Lines(text[:n]) {
		if bytes.Contains(line, []byte("avc:")) {
			_, werr := log.Write(line)
			err = errors.Join(err, werr)
		}
	}
	return err
}

// labelTree gives the files of the tree the labels of its policy. That needs no kernel with
// SELinux, and one without does not mind them.
func labelTree(ctx context.Context, tree string) error {
	return command(ctx, "chroot", tree, "setfiles", "-F", "/etc/selinux/default/contexts/files/file_contexts", "/")
}
