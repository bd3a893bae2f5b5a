package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/oci/atomicfile"
	"berth/oci/failure"
)

// Attachment names a pod that is to stay attached, see [Network.GC].
type Attachment struct{ PodID string }

// intent is what a pod was, or was about to be, attached with.
type intent struct {
	Version int             `json:"version"`
	Config  json.RawMessage `json:"config"` // the conflist
	NetNS   string          `json:"netns"`
	Args    [][2]string     `json:"args"`
	Caps    map[string]any  `json:"capabilities,omitempty"`
}

const intentVersion = 1

// errNoAddress is of a result that gives eth0 no address. The kubelet can't use
// such a pod, and would find out only long after somebody could have tried again.
var errNoAddress = errors.New("the plugins succeeded but gave the pod's " + ifName + " no IP address: is the \"ipam\" of the first plugin set, and does it have addresses left?")

// Add attaches a pod. When it fails, nothing stays attached, and the error
// wraps ErrNotReady if no pod could be attached at this time.
func (n *Network) Add(ctx context.Context, r Request) (Result, error) {
	list, err := n.usable()
	if err != nil {
		return Result{}, err
	}
	if list, err = needed(list, r); err != nil {
		return Result{}, err
	}
	rt := r.runtimeConf()
	n.turns.beginAdd()
	defer n.turns.endAdd()
	if err := n.writeIntent(list, rt); err != nil {
		return Result{}, err
	}
	actx, cancel := context.WithTimeout(ctx, n.opt.AddTimeout)
	defer cancel()
	raw, err := n.cni.AddNetworkList(actx, list, rt)
	if err == nil {
		var res Result
		if res, err = newResult(list.Name, raw); err == nil && len(res.IPs) == 0 {
			err = errNoAddress
		}
		if err == nil {
			_ = os.Remove(n.attemptPath(r.PodID)) // should it stay, DEL looks for processes and finds none
			return res, nil
		}
	}
	err = fmt.Errorf("attach the pod to network %q: %w", list.Name, err)
	if derr := n.Del(ctx, r); derr != nil {
		err = errors.Join(err, fmt.Errorf("and undo it: %w", derr))
	}
	return Result{}, err
}

// Del detaches a pod with the configuration, arguments and result of its Add,
// whatever the configuration is by now. It may be repeated. A pod of which
// nothing is remembered is detached from the present network as well as that
// can be done, without an error. ctx gives values only: Del has its own deadline.
func (n *Network) Del(ctx context.Context, r Request) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.opt.DelTimeout)
	defer cancel()
	if err := n.endAttempt(r.PodID); err != nil {
		return fmt.Errorf("detach the pod: %w", err)
	}
	list, rt, err := n.remembered(r.PodID)
	if failure.IsShortage(err) { // what was not read now is there for the next try
		return fmt.Errorf("detach the pod: %w", err)
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "What a pod was attached with can't be read; detaching it from the present network", "podID", r.PodID)
	}
	if list == nil {
		return n.delUnknown(ctx, r)
	}
	if err := n.missing(list); err != nil {
		return fmt.Errorf("detach the pod from network %q: %w", list.Name, err)
	}
	rt.NetNS, rt.Args = n.namespaceFor(r.PodID, rt.NetNS), sayable(rt.Args) // as an earlier daemon remembered them
	if r.Restore {
		if err := n.restoreAddresses(list, rt); err != nil {
			klog.FromContext(ctx).V(2).Info("The addresses of a pod are not restored before it is detached", "podID", r.PodID, "reason", err.Error())
		}
	}
	if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("detach the pod from network %q: %w", list.Name, err)
	}
	return n.forget(r.PodID)
}

// pinned is path, or "" where a file is left of which the namespace was unmounted:
// plugins refuse that one for ever, while they release without a namespace what
// they can (CNI specification, DEL).
func pinned(path string) string {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if err == nil && st.Type != unix.NSFS_MAGIC && st.Type != unix.PROC_SUPER_MAGIC {
		return ""
	}
	return path
}

func (n *Network) delUnknown(ctx context.Context, r Request) error {
	list, err := n.current()
	if err != nil {
		return n.forget(r.PodID)
	}
	if err := n.cni.DelNetworkList(ctx, list, r.runtimeConf()); err != nil {
		klog.FromContext(ctx).V(2).Info("DEL of a pod that is not known to be attached", "podID", r.PodID, "err", err)
	}
	return n.forget(r.PodID)
}

func (n *Network) intentPath(pod string) string {
	return filepath.Join(n.opt.CacheDir, "pods", filepath.Base(pod))
}

func (n *Network) writeIntent(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	path := n.intentPath(rt.ContainerID)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.WriteOrdered(path, intent{Version: intentVersion, Config: list.Bytes,
		NetNS: rt.NetNS, Args: rt.Args, Caps: rt.CapabilityArgs})
}

// remembered returns what pod was attached with: of our own record or, should
// that be gone or broken, of libcni's cache; nil when neither knows the pod.
func (n *Network) remembered(pod string) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{ContainerID: pod, IfName: ifName}
	var in intent
	err := atomicfile.Read(n.intentPath(pod), &in)
	if err == nil {
		rt.NetNS, rt.Args, rt.CapabilityArgs = in.NetNS, in.Args, in.Caps
		list, err := libcni.NetworkConfFromBytes(in.Config)
		return list, rt, err
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	cached, cerr := n.cni.GetCachedAttachments(pod)
	if cerr != nil || len(cached) == 0 {
		return nil, nil, errors.Join(err, cerr)
	}
	a := cached[0]
	rt.IfName, rt.NetNS, rt.Args, rt.CapabilityArgs = a.IfName, a.NetNS, a.CniArgs, a.CapabilityArgs
	list, perr := libcni.NetworkConfFromBytes(a.Config)
	return list, rt, errors.Join(err, perr)
}

// rememberedPods are those of the intents, and those that libcni remembers without one, as when
// it was damaged.
func (n *Network) rememberedPods() (map[string]bool, error) {
	pods := map[string]bool{}
	dir := filepath.Join(n.opt.CacheDir, "pods")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pods, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), atomicfile.TempPrefix) { // being written
			pods[e.Name()] = true
		}
	}
	if n.cachesOnly(pods) {
		return pods, nil
	}
	cached, err := n.cni.GetCachedAttachments("")
	for _, a := range cached {
		pods[a.ContainerID] = true
	}
	return pods, err
}

// cachesOnly tells whether libcni remembers these pods alone, by the names of its files,
// NETWORK-POD-INTERFACE. libcni itself would read and decode them all.
func (n *Network) cachesOnly(pods map[string]bool) bool {
	entries, err := os.ReadDir(filepath.Join(n.opt.CacheDir, "results"))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		name, ours := strings.CutSuffix(e.Name(), "-"+ifName)
		if !ours {
			return true
		}
		for rest, more := name, true; more; { // each of the three may have a -
			if _, rest, more = strings.Cut(rest, "-"); pods[rest] {
				return false
			}
		}
		return true
	})
}

func (n *Network) forget(pod string) error {
	return errors.Join(n.dropNetNS(pod), forgetFile(n.intentPath(pod)))
}
