package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// memoryEnv tells the test binary to pull eight images at once and tell its peak.
const memoryEnv = "BERTH_IMAGE_MEMORY"

func pullEight(args string) {
	root, host, _ := strings.Cut(args, " ")
	s, err := Open(Options{Root: root, MaxParallel: 12})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var eg errgroup.Group
	for i := range 8 {
		eg.Go(func() error {
			_, err := s.Pull(context.Background(), PullRequest{Reference: host + "/mem" + strconv.Itoa(i)})
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(peak())
}

// TestMemory: eight images of three layers each, gzip and zstd, pulled at once, take
// less than 150 MiB.
func TestMemory(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("the race detector takes memory of its own")
	}
	reg := newRegistry(t, nil)
	for i := range 8 {
		var layers []v1.Layer
		for k := range 3 {
			data := manyFiles(t, uint64(10*i+k), 500, 16<<10)
			opts := []tarball.LayerOption{}
			if k%2 == 1 {
				opts = append(opts, tarball.WithCompression("zstd"))
			}
			layers = append(layers, layerOf(t, data, opts...))
		}
		reg.push(t, "mem"+strconv.Itoa(i), imageOf(t, layers...))
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), memoryEnv+"="+t.TempDir()+" "+reg.host)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err, string(out))
	}
	kib, err := strconv.Atoi(string(out))
	if err != nil {
		t.Fatal(string(out))
	}
	t.Logf("peak %d MiB", kib>>10)
	if kib>>10 >= 150 {
		t.Errorf("peak memory is %d MiB", kib>>10)
	}
}

// smallDisk mounts a tmpfs of the given size.
func smallDisk(t testing.TB, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestDiskFull(t *testing.T) {
	reg := newRegistry(t, nil)
	noise := make([]byte, 6<<20)
	for i := range noise {
		noise[i] = byte(rand.Int())
	}
	big := reg.push(t, "big", imageOf(t, layerOf(t, layerTar(t, entry{"a", string(noise)})), layerOf(t, layerTar(t, entry{"b", "x"}, entry{"c", string(noise)}))))
	small := reg.push(t, "small", imageOf(t, layerOf(t, layerTar(t, entry{"s", "x"}))))
	s := openStore(t, Options{Root: smallDisk(t, "8m")})
	for range 2 {
		if _, err := s.Pull(t.Context(), PullRequest{Reference: big}); !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
		if left := layerDirs(t, s); len(left) != 0 {
			t.Fatalf("left: %v", left)
		}
		if _, err := s.Load(t.Context(), bytes.NewReader(layerTar(t, entry{"a", string(noise)}, entry{"b", string(noise)})), LoadOptions{}); !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
		pullOK(t, s, small)
		if err := s.Remove(t.Context(), small); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDiskReadOnly(t *testing.T) {
	reg := newRegistry(t, nil)
	ref, other := reg.push(t, "a", imageOf(t, layerOf(t, layerTar(t, entry{"s", "x"})))), reg.push(t, "b", imageOf(t))
	disk := smallDisk(t, "8m")
	s := openStore(t, Options{Root: disk})
	img := pullOK(t, s, ref)
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), PullRequest{Reference: other}); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), ref); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	if got, err := s.Get(ref); err != nil || got.ID != img.ID {
		t.Error(err)
	}
}

// TestTooManyLayers and entries: the limits hold and leave nothing.
func TestTooManyLayers(t *testing.T) {
	reg := newRegistry(t, nil)
	var layers []v1.Layer
	for i := range 5 {
		layers = append(layers, layerOf(t, layerTar(t, entry{"f", fmt.Sprint(i)})))
	}
	s := openStore(t, Options{maxLayers: 4})
	if _, err := s.Pull(t.Context(), PullRequest{Reference: reg.push(t, "a", imageOf(t, layers...))}); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}
