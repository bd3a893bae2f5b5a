package main

import (
	"archive/tar"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

//go:embed testdata/pause.c
var pauseSource []byte

// shape describes an image made for pulling.
type shape struct {
	name   string
	layers int
	files  int // of each layer
	size   int // bytes of each layer before compression
}

// pulled is a published image.
type pulled struct {
	ref    string
	repo   string
	layers []*blobLayer
}

// emptyImage is an OCI image for this machine with no layer.
func emptyImage(config v1.Config) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	return mutate.ConfigFile(mutate.ConfigMediaType(img, types.OCIConfigJSON), &v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", Config: config, RootFS: v1.RootFS{Type: "layers"},
	})
}

// publishBusybox makes the workload's image from the machine's static busybox.
func (l *loopback) publishBusybox() (string, error) {
	binary, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("%w; run `apt-get install busybox-static`", err)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	layer, err := l.buildLayer(func(tw *tar.Writer) error {
		for _, dir := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: fileTime}); err != nil {
				return err
			}
		}
		for _, applet := range []string{"sh", "sleep", "true"} {
			link := &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777, ModTime: fileTime}
			if err := tw.WriteHeader(link); err != nil {
				return err
			}
		}
		passwd := []byte("root:x:0:0:root:/:/bin/sh\n")
		return errors.Join(addFile(tw, "etc/passwd", 0o644, passwd), addFile(tw, "bin/busybox", 0o755, data))
	})
	if err != nil {
		return "", err
	}
	base, err := emptyImage(v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		return "", err
	}
	return l.publish("busybox:1", base, []v1.Layer{layer})
}

// makePause gives the peer's pause: the file of this name beside its daemon, for a machine that
// compiles nothing, or one that is compiled into dir.
func makePause(ctx context.Context, c *children, peer, dir string) (string, error) {
	ready := filepath.Join(filepath.Dir(peer), "pause")
	if _, err := os.Stat(ready); err == nil {
		return ready, nil
	}
	source, out := filepath.Join(dir, "pause.c"), filepath.Join(dir, "pause")
	if err := os.WriteFile(source, pauseSource, 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "gcc", "-Os", "-Wall", "-Werror", "-static", "-s", "-o", out, source)
	cmd.Stderr = os.Stderr
	if err := c.run(cmd); err != nil {
		return "", fmt.Errorf("compile containerd's pause: %w; run `apt-get install gcc libc6-dev`", err)
	}
	return out, nil
}

// publishPause makes the sandbox image of containerd.
func (l *loopback) publishPause(binary string) error {
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	layer, err := l.buildLayer(func(tw *tar.Writer) error { return addFile(tw, "pause", 0o755, data) })
	if err != nil {
		return err
	}
	base, err := emptyImage(v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"})
	if err != nil {
		return err
	}
	_, err = l.publish("pause:1", base, []v1.Layer{layer})
	return err
}

func addFile(tw *tar.Writer, name string, mode int64, data []byte) error {
	err := tw.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), ModTime: fileTime})
	if err != nil {
		return err
	}
	_, err = tw.Write(data)
	return err
}

// publishShape makes an image of a shape; layers are compressed side by side.
func (l *loopback) publishShape(ctx context.Context, s shape, seed uint64) (pulled, error) {
	built := make([]*blobLayer, s.layers)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i := range s.layers {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			built[i], err = l.buildLayer(func(tw *tar.Writer) error {
				return newStuff(seed*1000+uint64(i)).files(tw, fmt.Sprintf("l%02d", i), s.files, s.size)
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return pulled{}, err
	}
	layers := make([]v1.Layer, len(built))
	for i, b := range built {
		layers[i] = b
	}
	base, err := emptyImage(v1.Config{Cmd: []string{"/bin/sh"}})
	if err != nil {
		return pulled{}, err
	}
	ref, err := l.publish(s.name+":1", base, layers)
	return pulled{ref: ref, repo: s.name, layers: built}, err
}
