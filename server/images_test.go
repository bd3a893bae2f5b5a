package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/image"
	"berth/server/config"
	"berth/test/registry"
)

const seeded, unnamed = "docker.io/test/seed:1", "docker.io/other/seed:1"

// withRegistry serves one image under two names and gives the mirrors' directory.
func withRegistry(t *testing.T) string {
	t.Helper()
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	img, err := registry.Fixed()
	if err != nil {
		t.Fatal(err)
	}
	certs := t.TempDir()
	if err := errors.Join(r.Push(seeded, img), r.Push(unnamed, img), r.WriteHosts(certs, "docker.io")); err != nil {
		t.Fatal(err)
	}
	return certs
}

// seedDir holds an archive of the seeded image and a file that is none.
func seedDir(t *testing.T, certs string) string {
	t.Helper()
	store, err := image.Open(image.Options{Root: t.TempDir(), CertsDirs: []string{certs}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Pull(t.Context(), image.PullRequest{Reference: seeded}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "b.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.Export(t.Context(), []string{seeded}, f), f.Close(), os.WriteFile(filepath.Join(dir, "a.txt"), []byte("no archive"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTrustPolicyAndSeeds(t *testing.T) {
	cfg := private(t)
	certs := withRegistry(t)
	cfg.CertsDir, cfg.SeedDir = []string{certs}, seedDir(t, certs)
	cfg.TrustPolicy = filepath.Join(t.TempDir(), "trust.toml")
	if err := os.WriteFile(cfg.TrustPolicy, []byte("[[rule]]\nmatch = \"docker.io/test/*\"\nreject = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, cfg)
	if _, err := n.images.Pull(t.Context(), image.PullRequest{Reference: seeded}); !errors.Is(err, image.ErrSignature) {
		t.Errorf("an image the policy rejects: %v", err)
	}
	if _, err := n.images.Pull(t.Context(), image.PullRequest{Reference: unnamed}); err != nil {
		t.Errorf("an image the policy does not name: %v", err)
	}
	// Seeds are the operator's own doing, and load though one file is no archive.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // the store tells nobody
		if _, err := n.images.Get(seeded); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}

	cfg = private(t)
	cfg.TrustPolicy = filepath.Join(t.TempDir(), "absent.toml")
	if _, err := open(t.Context(), cfg, "v-test"); err == nil || !strings.Contains(err.Error(), "trust_policy") {
		t.Errorf("without its policy the daemon starts: %v", err)
	}
}

// start opens a node as far as a daemon does before it is ready.
func start(t *testing.T, cfg config.Config) *node {
	t.Helper()
	n, err := open(t.Context(), cfg, "v-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.close(context.WithoutCancel(t.Context())) })
	if err := n.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}
