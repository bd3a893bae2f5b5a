package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/selinux/go-selinux"
)

// selinuxArgs boot with SELinux instead of AppArmor, permissive until the suite begins:
// the policy does not know the service that runs the suites. The kernel's
// log keeps all that it denies.
const selinuxArgs = " security=selinux selinux=1 enforcing=0 log_buf_len=16M sysctl.kernel.printk_ratelimit=0"

// shareLabel is what files of the share have that have no label of their own, as programs
// of /usr have it.
const shareLabel = "system_u:object_r:bin_t:s0"

// engineLabel is what an administrator gives berth's programs, see server/THREATMODEL.md.
const engineLabel = "system_u:object_r:container_engine_exec_t:s0"

// enforce labels berth's programs and makes the kernel deny what the policy does not
// allow.
func (g *guest) enforce() error {
	if !selinux.GetEnabled() {
		return errors.New("the guest has booted without SELinux")
	}
	for _, p := range []string{"berthd", "berth-shim"} {
		if err := selinux.SetFileLabel(filepath.Join(g.bundle, "bin", p), engineLabel); err != nil {
			return fmt.Errorf("label %s: %w", p, err)
		}
	}
	if g.plan.Permissive {
		return nil
	}
	return selinux.SetEnforceMode(selinux.Enforcing)
}

// denied writes the kernel's log, which has what it denied, to the suite's.
func (g *guest) denied(ctx context.Context) error {
	return g.logged(context.WithoutCancel(ctx), "selinux", nil, "/usr/bin/dmesg")
}

// labelTree gives the files of the tree the labels of its policy. That needs no kernel with
// SELinux, and one without does not mind them.
func labelTree(ctx context.Context, tree string) error {
	return command(ctx, "chroot", tree, "setfiles", "-F", "/etc/selinux/default/contexts/files/file_contexts", "/")
}
