package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"berth/test/client"
	"berth/test/node"
	"berth/test/registry"
)

// Names under which the registry has its images.
const (
	busybox = client.Busybox
	nginx   = "registry.k8s.io/e2e-test-images/nginx:1.14-2"
	tagged  = "gcr.io/k8s-staging-cri-tools/test-image-tags:1"
	fixed   = registry.FixedName
)

var patience = client.Patience

// Shared by all tests, see doc.go; nil when the tests are skipped.
var (
	shared *suite
	images *registry.Registry
)

// suite is a node with its event stream.
type suite struct {
	*node.Node
	events *events
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if reason := cannotRun(); reason != "" {
		fmt.Println("integration tests are skipped:", reason)
		return 0
	}
	var err error
	if images, err = startRegistry(); err == nil {
		shared, err = startSuite(context.Background(), node.Options{Registry: images})
	}
	if err != nil {
		fmt.Println("integration:", err)
		return 1
	}
	code = m.Run()
	if err := errors.Join(shared.close(), images.Close()); err != nil {
		fmt.Println("integration: after all tests:", err)
		return 1
	}
	return code
}

func cannotRun() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, bin := range []string{"berthd", "berth-shim", "berth"} {
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

func startSuite(ctx context.Context, opt node.Options) (*suite, error) {
	n, err := node.Start(ctx, opt)
	if err != nil {
		return nil, err
	}
	s := &suite{Node: n}
	s.events, err = subscribe(n.Runtime)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return s, nil
}

func (s *suite) close() error {
	s.events.stop()
	return s.Close()
}

// own starts a node for one test and closes it with the test.
func own(t *testing.T, opt node.Options) *suite {
	t.Helper()
	if opt.Registry == nil {
		opt.Registry = images
	}
	s, err := startSuite(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
