package nri

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/registry"
)

// peerConfig is containerd's default configuration but for its places.
const peerConfig = `version = 3
root = "DIR/root"
state = "DIR/state"
[grpc]
  address = "DIR/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIR/opt"
[plugins."io.containerd.nri.v1.nri"]
  socket_path = "DIR/nri.sock"
  plugin_path = "DIR/none"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/peer-pause:1"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "DIR/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["CNI"]
  conf_dir = "NETD"
`

// startPeer starts the containerd of the directory that PEER names, for one test.
func startPeer(t *testing.T) *runtime {
	t.Helper()
	bin := os.Getenv("PEER")
	if bin == "" {
		t.Skip("PEER names no directory with containerd, containerd-shim-runc-v2 and runc")
	}
	base, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	pause, err := registry.Extend(base, func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"sleep", "1000000"}, nil })
	if err == nil {
		err = images.Push("registry.k8s.io/peer-pause:1", pause)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "berth-peer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mounts, _ := exec.CommandContext(context.Background(), "sh", "-c", "grep -o ' "+dir+"[^ ]*' /proc/mounts | sort -r").Output()
		for m := range strings.Lines(string(mounts)) {
			_ = unix.Unmount(strings.TrimSpace(m), unix.MNT_DETACH)
		}
		_ = os.RemoveAll(dir)
	})
	if err := images.WriteHosts(filepath.Join(dir, "certs.d"), registry.Upstreams...); err != nil {
		t.Fatal(err)
	}
	cni, err := filepath.Abs("../../bin/cni")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("DIR", dir, "CNI", cni, "NETD", shared.node.ConfDir).Replace(peerConfig)
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "containerd"), "--config", file)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("containerd says: %s", text[max(0, len(text)-4000):])
		}
	})
	c, err := client.Dial("unix://" + filepath.Join(dir, "containerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	client.Eventually(t, "containerd answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	})
	return &runtime{Client: c, socket: filepath.Join(dir, "nri.sock"), logs: t.TempDir()}
}

// TestPeer has the same plugins watch and change the same pods in berth and in containerd
// 2.4. What differs is not compared:
//
//   - containerd refuses a removal while another goes on, so it is not asked to.
//   - Of a container that was never started containerd tells the end when it is removed,
//     after that of its pod.
//   - Of a container that ends at once containerd may tell the end before the start.
//   - containerd evicts nothing, neither when a plugin asks for it by itself nor when it
//     does so by an answer.
//   - containerd ignores limits of processes in updates, and updates of containers that have
//     ended.
func TestPeer(t *testing.T) {
	peer := startPeer(t)
	t.Run("events", func(t *testing.T) {
		told := map[*runtime][]string{}
		for _, r := range []*runtime{shared, peer} {
			p := connect(t, r.socket, "10-logger", nil)
			live(t, r, p)
			all := p.of("life")
			told[r] = anyOrder(slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "StopContainer life/c" }))
			if i := slices.Index(told[r], "StopContainer life/b"); r == peer && i >= 0 && i+1 < len(told[r]) && told[r][i+1] == "PostStartContainer life/b" {
				told[r][i], told[r][i+1] = told[r][i+1], told[r][i]
			}
			if len(told[r]) != len(all)-1 {
				t.Errorf("the end of the container that was never started is told %d times", len(all)-len(told[r]))
			}
		}
		if diff := cmp.Diff(told[peer], told[shared]); diff != "" {
			t.Errorf("containerd (-) and berth (+) tell other steps:\n%s", diff)
		}
	})
	t.Run("specs", func(t *testing.T) {
		changed := map[*runtime][]string{}
		for _, r := range []*runtime{shared, peer} {
			changed[r] = changes(t, r)
			if len(changed[r]) < 20 {
				t.Errorf("only these were made: %q", changed[r])
			}
		}
		if diff := cmp.Diff(changed[peer], changed[shared]); diff != "" {
			t.Errorf("containerd (-) and berth (+) make other changes:\n%s", diff)
		}
	})
	t.Run("updates", func(t *testing.T) { updates(t, peer) })
	t.Run("validator", func(t *testing.T) { validator(t, peer) })
}

// changes are what differs in a container between before and after every kind of
// adjustment.
func changes(t *testing.T, r *runtime) []string {
	t.Helper()
	dir := t.TempDir()
	var before []string
	p := connect(t, r.socket, "20-adjuster", func(p *plugin) {
		p.adjust = func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			before = facts(t, c)
			return everything(dir), nil, nil
		}
	})
	pod := r.pod(t, "changes")
	c := pod.Start(client.Shell("a", "exit 1"))
	p.await(t, "PostStartContainer changes/a")
	after := facts(t, p.seen(c.ID))
	var out []string
	for _, f := range after {
		if !slices.Contains(before, f) {
			out = append(out, "+ "+strings.ReplaceAll(f, dir, "DIR"))
		}
	}
	for _, f := range before {
		if !slices.Contains(after, f) {
			out = append(out, "- "+strings.ReplaceAll(f, dir, "DIR"))
		}
	}
	slices.Sort(out)
	return out
}

// facts flattens what plugins are told of a container, but for its state.
func facts(t *testing.T, c *api.Container) []string {
	t.Helper()
	data, err := protojson.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"state", "pid", "createdAt", "startedAt", "finishedAt"} {
		delete(value, key)
	}
	var out []string
	flatten("", value, &out)
	return out
}

func flatten(path string, value any, out *[]string) {
	switch v := value.(type) {
	case map[string]any:
		for key, sub := range v {
			flatten(path+"."+key, sub, out)
		}
	case []any:
		for _, sub := range v {
			text, _ := json.Marshal(sub)
			*out = append(*out, fmt.Sprintf("%s[] %s", path, text))
		}
	default:
		*out = append(*out, fmt.Sprintf("%s %v", path, v))
	}
}
