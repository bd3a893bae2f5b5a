package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// owedPause is the least time between two tries to detach what is owed.
const owedPause = 10 * time.Second

// debts are the pods that are gone but could not be detached, because a plugin was
// missing. On disk they are what is remembered without a pod, so GC finds them after
// a restart; here they wait for the plugin to come back.
type debts struct {
	mu     sync.Mutex
	pods   map[string]bool
	paying chan struct{} // closed when the try in progress ends; nil without one
	paid   time.Time     // when the last try ended
}

func (n *Network) owe(pod string) {
	n.debts.mu.Lock()
	defer n.debts.mu.Unlock()
	if n.debts.pods == nil {
		n.debts.pods = map[string]bool{}
	}
	n.debts.pods[pod] = true
}

// Forgo takes over to detach a pod whose Del failed because a plugin was missing:
// it is done when the plugin is there, which is looked at whenever somebody asks
// [Network.Ready], and at the latest by GC. Until then the pod's network namespace is
// kept, for what plugins can only release with it.
func (n *Network) Forgo(r Request) error {
	if err := n.keepNetNS(r); err != nil {
		return fmt.Errorf("keep the network namespace of pod %s until its network can be released: %w", r.PodID, err)
	}
	n.owe(r.PodID)
	return nil
}

func (n *Network) keptNetNS(pod string) string {
	return filepath.Join(n.opt.CacheDir, "netns", filepath.Base(pod))
}

func (n *Network) keepNetNS(r Request) error {
	path := n.keptNetNS(r.PodID)
	if pinned(r.NetNS) == "" || isNetNS(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	err = unix.Mount(r.NetNS, path, "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		err = nil // it is gone; plugins release without it what they can
	}
	return err
}

func (n *Network) dropNetNS(pod string) error {
	path := n.keptNetNS(pod)
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return forgetFile(path)
}

func isNetNS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// missing names a plugin of list that is in none of the plugin directories.
func (n *Network) missing(list *libcni.NetworkConfigList) error {
	for _, p := range pluginNames(list) {
		if _, err := (pluginExec{}).FindInPath(p, n.opt.BinDirs); err != nil {
			return fmt.Errorf("%w: plugin %q of network %q was not found in %s: install it there",
				ErrNotReady, p, list.Name, strings.Join(n.opt.BinDirs, ", "))
		}
	}
	return nil
}

// payDebts detaches in the background what is owed and can be detached by now.
func (n *Network) payDebts() {
	d := &n.debts
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paying != nil || len(d.pods) == 0 || time.Since(d.paid) < owedPause {
		return
	}
	pods := make([]string, 0, len(d.pods))
	for pod := range d.pods {
		pods = append(pods, pod)
	}
	d.paying = make(chan struct{})
	go func() {
		var errs error
		for _, pod := range pods {
			errs = errors.Join(errs, n.payDebt(pod))
		}
		if errs != nil {
			klog.Background().Error(errs, "Pods that were removed while a CNI plugin was missing could not be detached; it is tried again")
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		close(d.paying)
		d.paying, d.paid = nil, time.Now()
	}()
}

func (n *Network) payDebt(pod string) error {
	if err := n.Del(context.Background(), Request{PodID: pod}); err != nil {
		if errors.Is(err, ErrNotReady) {
			return nil // still missing
		}
		return fmt.Errorf("pod %s: %w", pod, err)
	}
	n.debts.mu.Lock()
	defer n.debts.mu.Unlock()
	delete(n.debts.pods, pod)
	klog.Background().Info("The network of a pod that was removed while a CNI plugin was missing is released", "pod", pod)
	return nil
}

// namespaceFor is the path by which plugins reach a pod's network namespace: the one
// remembered, or the one kept when the pod went; "" when there is none.
func (n *Network) namespaceFor(pod, remembered string) string {
	if _, err := os.Stat(remembered); errors.Is(err, fs.ErrNotExist) || pinned(remembered) == "" {
		if kept := n.keptNetNS(pod); isNetNS(kept) {
			return kept
		}
	}
	return pinned(remembered)
}
