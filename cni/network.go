package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"berth/oci/atomicfile"
)

// ErrNotReady says that no pod can be attached for now. The text of an error
// that wraps it tells why and what to do.
var ErrNotReady = errors.New("network is not ready")

const (
	// ifName is the pod's interface; the kubelet and every CNI plugin expect it.
	ifName = "eth0"
	// usualAdd is what one ADD has unless [Options] say otherwise; the kubelet gives up on
	// a pod after two minutes.
	usualAdd = 2 * time.Minute
	// usualDel is what one DEL has. It is the shorter of what people wait for a pod to go
	// and what a plugin that asks an API server may need.
	usualDel = 30 * time.Second
	// gcTimeout bounds the plugins' part of one [Network.GC]: all its attempts and the
	// waits between them. Each DEL before it has [Options.DelTimeout].
	gcTimeout = 60 * time.Second
	// statusTimeout bounds STATUS; the kubelet asks for the node's status with
	// a deadline of its own, and a hanging plugin is a plugin that is not ready.
	statusTimeout = 5 * time.Second
	// statusTTL is how long an answer of STATUS serves: the kubelet asks every
	// five seconds, and each RunPodSandbox asks too, which must not cost a process.
	statusTTL = 4 * time.Second
)

// Options configure a [Network].
type Options struct {
	ConfDir  string   // watched for the network configuration; need not exist yet
	BinDirs  []string // searched for plugins, in order
	CacheDir string   // where attachments are remembered; made when first needed
	// Default is the conflist used while ConfDir has no configuration, see
	// [DefaultConflist]. Nil: the network is not ready then.
	Default []byte
	// Template is the file that [Network.SetPodCIDR] makes a configuration of; "": none.
	Template string
	// AddTimeout and DelTimeout bound one ADD and one DEL, for a plugin that hangs would
	// hold its pod for ever; 0: two minutes and 30 seconds.
	AddTimeout, DelTimeout time.Duration
}

// Network attaches pods to the network that the configuration directory
// describes. Its methods may be called concurrently.
type Network struct {
	opt   Options
	cni   *libcni.CNIConfig
	watch *watcher
	turns turns
	debts debts

	mu   sync.Mutex
	list *libcni.NetworkConfigList // nil when loadErr is set
	load error

	statusMu  sync.Mutex
	statusOf  *libcni.NetworkConfigList
	statusErr error
	statusAt  time.Time
}

// New loads the configuration and starts watching for changes. A missing or
// bad configuration is no error here: [Network.Ready] tells of it. It fails
// when the options can't work or inotify is not to be had.
func New(opt Options) (*Network, error) {
	if opt.ConfDir == "" || opt.CacheDir == "" || len(opt.BinDirs) == 0 {
		return nil, errors.New("cni: a configuration directory, a cache directory and plugin directories must be given")
	}
	opt.ConfDir = filepath.Clean(opt.ConfDir)
	opt.AddTimeout, opt.DelTimeout = cmp.Or(opt.AddTimeout, usualAdd), cmp.Or(opt.DelTimeout, usualDel)
	if err := dropCutOff(opt.CacheDir); err != nil {
		return nil, fmt.Errorf("cni: %w", err)
	}
	n := &Network{opt: opt}
	n.cni = libcni.NewCNIConfigWithCacheDir(opt.BinDirs, opt.CacheDir, pluginExec{opt.CacheDir})
	if opt.Default != nil {
		if _, err := libcni.NetworkConfFromBytes(opt.Default); err != nil {
			return nil, fmt.Errorf("cni: default network: %w", err)
		}
	}
	w, err := newWatcher(opt.ConfDir, n.reload)
	if err != nil {
		return nil, fmt.Errorf("cni: watch %s: %w", opt.ConfDir, err)
	}
	n.watch = w
	return n, nil
}

// dropCutOff removes records whose writing a crash cut off. What they were to tell of
// had not begun. Later it would take those that are being written.
func dropCutOff(cache string) error {
	files, err := filepath.Glob(filepath.Join(cache, "*", atomicfile.TempPrefix+"*"))
	for _, f := range files {
		err = errors.Join(err, forgetFile(f))
	}
	return err
}

// Close stops the watch and waits for it to end. Attached pods stay attached.
func (n *Network) Close() error { return n.watch.close() }

// reload reads the directory anew and returns the further directories whose
// files are part of the configuration.
func (n *Network) reload() []string {
	list, err := loadDir(n.opt.ConfDir, n.opt.Default)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list, n.load = list, err
	if list == nil {
		return nil
	}
	return []string{filepath.Join(n.opt.ConfDir, list.Name)}
}

func (n *Network) current() (*libcni.NetworkConfigList, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list, n.load
}

// LastLoad returns the configuration in use as JSON, or why there is none.
func (n *Network) LastLoad() (confJSON string, err error) {
	list, err := n.current()
	if err != nil {
		return "", err
	}
	return string(list.Bytes), nil
}

// Ready is nil when pods can be attached, else an error that wraps
// [ErrNotReady]; its text is fit to be the NetworkReady condition's message.
func (n *Network) Ready() error {
	n.payDebts()
	list, err := n.usable()
	if err != nil {
		return err
	}
	return n.status(list)
}

// usable returns the loaded configuration after a look at the plugins it names.
func (n *Network) usable() (*libcni.NetworkConfigList, error) {
	list, err := n.current()
	if err != nil {
		return nil, err
	}
	return list, n.missing(list)
}

// status runs STATUS of the plugins (CNI 1.1 on), or gives the recent answer.
func (n *Network) status(list *libcni.NetworkConfigList) error {
	n.statusMu.Lock()
	defer n.statusMu.Unlock()
	if n.statusOf == list && time.Since(n.statusAt) < statusTTL {
		return n.statusErr
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	err := n.cni.GetStatusNetworkList(ctx, list)
	if err != nil {
		err = fmt.Errorf("%w: a plugin of network %q says: %w", ErrNotReady, list.Name, err)
	}
	n.statusOf, n.statusErr, n.statusAt = list, err, time.Now()
	return err
}

// pluginNames are the programs that an attachment to list runs.
func pluginNames(list *libcni.NetworkConfigList) []string {
	var names []string
	for _, p := range list.Plugins {
		names = append(names, p.Network.Type)
		if p.Network.IPAM.Type != "" {
			names = append(names, p.Network.IPAM.Type)
		}
	}
	return names
}
