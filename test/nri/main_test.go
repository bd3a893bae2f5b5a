package nri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/nri/pkg/api"

	"berth/test/client"
	"berth/test/node"
	"berth/test/registry"
)

var within = client.Within

// Shared by the tests that need no node of their own; nil when all are skipped.
var (
	shared *runtime
	images *registry.Registry
)

// runtime is a runtime under test.
type runtime struct {
	*client.Client
	socket string     // of NRI
	logs   string     // where pods may have their directories of logs
	node   *node.Node // nil for a peer
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if os.Getenv(api.PluginNameEnvVar) != "" {
		return serveLaunched()
	}
	if reason := cannotRun(); reason != "" {
		fmt.Println("tests of NRI are skipped:", reason)
		return 0
	}
	var err error
	if images, err = startRegistry(); err == nil {
		shared, err = start(context.Background(), node.Options{})
	}
	if err != nil {
		fmt.Println("nri:", err)
		return 1
	}
	code = m.Run()
	if err := errors.Join(shared.node.Close(), images.Close()); err != nil {
		fmt.Println("nri: after all tests:", err)
		return 1
	}
	return code
}

func cannotRun() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, bin := range []string{"berthd", "berth-shim"} {
		if _, err := os.Stat(filepath.Join("..", "..", "bin", bin)); err != nil {
			return "no bin/" + bin + ": run make build first"
		}
	}
	return ""
}

func startRegistry() (*registry.Registry, error) {
	r, err := registry.Start()
	if err != nil {
		return nil, err
	}
	all, err := registry.Critest()
	if err == nil {
		err = r.PushAll(all)
	}
	return r, err
}

func start(ctx context.Context, opt node.Options) (*runtime, error) {
	opt.Registry = images
	n, err := node.Start(ctx, opt)
	if err != nil {
		return nil, err
	}
	return &runtime{Client: n.Client, socket: filepath.Join(n.State, "nri.sock"), logs: n.LogDir, node: n}, nil
}

// own starts a node with further flags for one test.
func own(t *testing.T, args ...string) *runtime {
	t.Helper()
	r, err := start(t.Context(), node.Options{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.node.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *runtime) kit(t *testing.T) *client.Kit {
	return &client.Kit{Client: r.Client, T: t, LogDir: r.logs, Namespace: "nri"}
}

// pod runs a pod that ends with the test.
func (r *runtime) pod(t *testing.T, name string) *client.Pod {
	t.Helper()
	p := r.kit(t).Run(r.kit(t).PodConfig(name))
	t.Cleanup(p.End)
	return p
}
