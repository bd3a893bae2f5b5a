package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/oci/procfs"
	"berth/sandbox/record"
)

// detach releases a pod's network, unless that was done. With force a pod goes even
// though a part of the network is missing: the network takes over to release it then.
func (t *teardown) detach(ctx context.Context, rec *podRecord, force bool) error {
	if rec.netns == "" || rec.Intent == record.Stopped || rec.Intent == record.Removing {
		return nil
	}
	if err := t.pinAgain(rec); err != nil {
		klog.FromContext(ctx).Error(err, "The network namespace of a pod was unmounted and can't be had again; its network is released as far as that goes", "pod", rec.ID)
	}
	p := PodNetwork{PodID: rec.ID, NetNS: rec.netns, Config: rec.config, Foreign: rec.isForeign()}
	err := t.network.Detach(ctx, p)
	if force && errors.Is(err, ErrNotReady) {
		klog.FromContext(ctx).Error(err, "A pod goes before its network can be released; that is made up for later", "pod", rec.ID)
		err = t.network.Forgo(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("release pod network: %w", err)
	}
	return nil
}

// pinAgain mounts a pod's network namespace where it belongs when somebody has
// unmounted it and the pause process still holds it: without it plugins release the
// address but not what belongs to the interface, such as its masquerading.
func (t *teardown) pinAgain(rec *podRecord) error {
	var st unix.Statfs_t
	if err := unix.Statfs(rec.netns, &st); err == nil && st.Type == unix.NSFS_MAGIC {
		return nil
	}
	if rec.PausePID == 0 || rec.BootID != t.bootID {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", rec.PausePID))
	if errors.Is(err, os.ErrNotExist) {
		return nil // the pause process ended, and its namespace with it
	}
	if err != nil {
		return fmt.Errorf("network namespace of the pause process: %w", err)
	}
	defer func() { _ = ns.Close() }()
	// Looked at after the open: it is then surely not another process's namespace.
	if err := procfs.Lives(rec.PausePID, rec.PauseStart); errors.Is(err, procfs.ErrEnded) {
		return nil // as above
	} else if err != nil {
		return err
	}
	return t.mounts.PinNamespace(ns, rec.netns)
}
