package nri

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"berth/test/client"
	"berth/test/peer"
)

// startPeer starts the containerd of the directory that PEER names, for one test.
func startPeer(t *testing.T) *runtime {
	t.Helper()
	bin := os.Getenv("PEER")
	if bin == "" {
		t.Skip("PEER names no directory with containerd, containerd-shim-runc-v2 and runc")
	}
	cni, err := filepath.Abs("../../bin/cni")
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.Start(t.Context(), peer.Options{Bin: bin, Images: images, NetConf: shared.node.ConfDir, CNI: cni})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd says: %s", p.LogTail())
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.Dial(p.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &runtime{Client: c, socket: p.NRI, logs: t.TempDir()}
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
	other := startPeer(t)
	t.Run("events", func(t *testing.T) {
		told := map[*runtime][]string{}
		for _, r := range []*runtime{shared, other} {
			p := connect(t, r.socket, "10-logger", nil)
			live(t, r, p)
			all := p.of("life")
			told[r] = anyOrder(slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "StopContainer life/c" }))
			if i := slices.Index(told[r], "StopContainer life/b"); r == other && i >= 0 && i+1 < len(told[r]) && told[r][i+1] == "PostStartContainer life/b" {
				told[r][i], told[r][i+1] = told[r][i+1], told[r][i]
			}
			if len(told[r]) != len(all)-1 {
				t.Errorf("the end of the container that was never started is told %d times", len(all)-len(told[r]))
			}
		}
		if diff := cmp.Diff(told[other], told[shared]); diff != "" {
			t.Errorf("containerd (-) and berth (+) tell other steps:\n%s", diff)
		}
	})
	t.Run("specs", func(t *testing.T) {
		changed := map[*runtime][]string{}
		for _, r := range []*runtime{shared, other} {
			changed[r] = changes(t, r)
			if len(changed[r]) < 20 {
				t.Errorf("only these were made: %q", changed[r])
			}
		}
		if diff := cmp.Diff(changed[other], changed[shared]); diff != "" {
			t.Errorf("containerd (-) and berth (+) make other changes:\n%s", diff)
		}
	})
	t.Run("updates", func(t *testing.T) { updates(t, other) })
	t.Run("validator", func(t *testing.T) { validator(t, other) })
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
