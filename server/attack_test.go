package server

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"berth/image"
)

// An image left a layer of very many files half made: removing it used to come before
// the daemon was ready, for minutes, and SIGTERM did not end that.
func TestAttackHugeLayerDelaysStart(t *testing.T) {
	cfg := private(t)
	tree := filepath.Join(cfg.Root, "layers", ".tmp-huge")
	for d := range 20 {
		dir := filepath.Join(tree, strconv.Itoa(d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range 3000 {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(f)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	n, err := open(t.Context(), cfg, "v-test")
	if err != nil {
		t.Fatal(err)
	}
	err = n.recover(t.Context())
	n.close(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tree); err != nil {
		t.Errorf("the daemon came up, or went down, only when all was removed: %v", err)
	}
	store, err := image.Open(image.Options{Root: cfg.Root}) // it was given up
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tree); !os.IsNotExist(err) {
		t.Errorf("the next start does not go on: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
