package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/registry"
)

const (
	pauseImage = "registry.k8s.io/peer-pause:1"
	// startPatience is how long containerd may take to answer.
	startPatience = 30 * time.Second
	stopPatience  = 15 * time.Second
)

const configuration = `version = 3
root = "ROOT"
state = "DIR/state"
[grpc]
  address = "DIR/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIR/opt"
[plugins."io.containerd.nri.v1.nri"]
  socket_path = "DIR/nri.sock"
  plugin_path = "DIR/none"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "PAUSE"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "DIR/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["CNI"]
  conf_dir = "NETD"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "BINARY"
`

// Places are what a configuration of containerd names.
type Places struct {
	Dir     string // of its socket, containerd.sock, that of NRI, nri.sock, its state, and registries' hosts in certs.d
	Root    string // its durable directory
	NetConf string // directory of CNI's configuration
	CNI     string // directory of CNI's plugins
	Pause   string // the image of pause containers
	Binary  string // an OCI runtime in place of runc; "" is runc
}

// Configuration is containerd's default one but for the places, and for an oom_score_adj that
// hosts without CAP_SYS_RESOURCE allow.
func Configuration(p Places) string {
	return strings.NewReplacer("ROOT", p.Root, "DIR", p.Dir, "CNI", p.CNI, "NETD", p.NetConf, "PAUSE", p.Pause, "BINARY", p.Binary).Replace(configuration)
}

// Options are what a containerd gets from its caller.
type Options struct {
	Bin     string             // directory of its programs
	Binary  string             // an OCI runtime in place of runc; "" is runc
	Images  *registry.Registry // what it pulls from, under every name
	NetConf string             // directory of CNI's configuration
	CNI     string             // directory of CNI's plugins
}

// Peer is a containerd that serves the CRI.
type Peer struct {
	Endpoint string // unix:///…
	NRI      string // path of its socket for plugins

	dir string
	cmd *exec.Cmd
}

// Start starts a containerd and waits until it answers. After an error nothing is left.
func Start(ctx context.Context, o Options) (p *Peer, err error) {
	if err := pushPause(o.Images); err != nil {
		return nil, fmt.Errorf("pause image of containerd: %w", err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "berth-peer-")
	if err != nil {
		return nil, err
	}
	p = &Peer{Endpoint: "unix://" + filepath.Join(dir, "containerd.sock"), NRI: filepath.Join(dir, "nri.sock"), dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	config := Configuration(Places{Dir: dir, Root: filepath.Join(dir, "root"), NetConf: o.NetConf, CNI: o.CNI, Pause: pauseImage, Binary: o.Binary})
	file := filepath.Join(dir, "config.toml")
	if err := errors.Join(o.Images.WriteHosts(filepath.Join(dir, "certs.d"), registry.Upstreams...), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return p, err
	}
	log, err := os.Create(p.log())
	if err != nil {
		return p, err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(o.Bin, "containerd"), "--config", file)
	cmd.Env = append(os.Environ(), "PATH="+o.Bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return p, err
	}
	p.cmd = cmd
	return p, p.await(ctx)
}

// pushPause makes the image of containerd's pause containers.
func pushPause(images *registry.Registry) error {
	base, err := registry.Busybox()
	if err != nil {
		return err
	}
	pause, err := registry.Extend(base, func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"sleep", "1000000"}, nil })
	if err != nil {
		return err
	}
	return images.Push(pauseImage, pause)
}

// await waits until the daemon answers. The CRI has no event for that.
func (p *Peer) await(ctx context.Context) error {
	c, err := client.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		one, done := context.WithTimeout(ctx, time.Second)
		_, err := c.Runtime.Version(one, &runtimeapi.VersionRequest{})
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer: %w; its log ends:\n%s", err, p.LogTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Peer) log() string { return filepath.Join(p.dir, "log") }

// LogTail is the end of the daemon's log.
func (p *Peer) LogTail() string {
	text, err := os.ReadFile(p.log())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// Close ends the daemon and removes its directory.
func (p *Peer) Close() error {
	p.stop()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) { // those on top come last
		if uerr := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", m.Mountpoint, uerr))
		}
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *Peer) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	late := time.AfterFunc(stopPatience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait() // its exit code tells nothing that matters here
}
