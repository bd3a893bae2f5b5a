package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// imageName is what the archive calls its image; no registry is called so.
const imageName = "berth.local/demo:latest"

// entry is a file of the image: a directory when mode has tar's flag for it.
type entry struct {
	header tar.Header
	data   []byte
}

// writeImage writes a docker archive (`docker save`) with busybox in one layer.
func writeImage(ctx context.Context, file string) error {
	layer, err := busyboxLayer(ctx)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{imageName}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	archive, err := tarOf([]entry{
		{tar.Header{Name: "layer.tar", Mode: 0o644}, layer},
		{tar.Header{Name: "config.json", Mode: 0o644}, config},
		{tar.Header{Name: "manifest.json", Mode: 0o644}, manifest},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, archive, 0o600)
}

// busyboxLayer is a root file system: busybox under the names of its applets.
func busyboxLayer(ctx context.Context) ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: install busybox-static", err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", path, err)
	}
	var entries []entry
	for _, dir := range []string{"bin/", "etc/", "proc/", "sys/", "dev/", "www/"} {
		entries = append(entries, entry{tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil})
	}
	entries = append(entries,
		entry{tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil},
		entry{tar.Header{Name: "bin/busybox", Mode: 0o755}, binary},
		entry{tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/:/bin/sh\n")},
		entry{tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\n")},
		entry{tar.Header{Name: "www/index.html", Mode: 0o644}, []byte("hello from a pod\n")},
	)
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			entries = append(entries, entry{tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + name, Linkname: "bin/busybox"}, nil})
		}
	}
	return tarOf(entries)
}

func tarOf(entries []entry) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.header.Size = int64(len(e.data))
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
