package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// The shapes of image that pulls are measured with.
var (
	shape200   = shape{name: "pull200", layers: 4, files: 4000, size: 50 * mib}
	shape1G    = shape{name: "pull1g", layers: 1, files: 64, size: 1024 * mib}
	shapeMany  = shape{name: "pull60", layers: 60, files: 10, size: mib / 2}
	shapeEight = shape{name: "eight", layers: 2, files: 500, size: 32 * mib}
)

// measurePull pulls the image of the goal: 200 MiB in 16,000 small files.
func (b *bench) measurePull(ctx context.Context) error {
	return b.pullShape(ctx, "pull.200m", shape200, b.opts.pulls)
}

// measureLarge pulls one layer of a GiB.
func (b *bench) measureLarge(ctx context.Context) error {
	return b.pullShape(ctx, "pull.1g", shape1G, max(1, b.opts.pulls/2))
}

// measureManyLayers pulls 60 small layers.
func (b *bench) measureManyLayers(ctx context.Context) error {
	return b.pullShape(ctx, "pull.60layers", shapeMany, b.opts.pulls)
}

// pullShape pulls one image in turns, with curl, gzip and tar taking a turn.
// Each pull begins without the image.
func (b *bench) pullShape(ctx context.Context, name string, s shape, rounds int) error {
	img, err := b.registry.publishShape(ctx, s, 1)
	if err != nil {
		return err
	}
	defer b.registry.drop(img)
	floors := 0
	return b.turns(ctx, rounds, func(r *runtimeUnderTest) error {
		if floors < rounds && r == b.runtimes[0] {
			floors++
			if err := b.pullFloor(ctx, name, img); err != nil {
				return err
			}
		}
		return b.pullOnce(ctx, name, r, img)
	})
}

// pullOnce pulls and removes; what the store keeps afterwards is a figure too,
// and near nothing unless the next pull would be an easier one.
func (b *bench) pullOnce(ctx context.Context, name string, r *runtimeUnderTest, img pulled) error {
	before := diskUse(r.root)
	spent, err := timed(func() error { return r.pull(ctx, img.ref) })
	if err != nil {
		return err
	}
	stored := diskUse(r.root)
	if err := r.remove(ctx, img.ref); err != nil {
		return err
	}
	b.report.time(name, r.name, spent)
	b.report.value(name+".stored", r.name, "MiB", float64(stored-before)/mib)
	b.report.value(name+".left", r.name, "MiB", float64(diskUse(r.root)-before)/mib)
	return nil
}

// diskUse is the size of a tree in bytes of blocks.
func diskUse(root string) int64 {
	var total int64
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, _ error) error {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			total += st.Blocks * 512
		}
		return nil // what vanishes meanwhile is not in use
	})
	return total
}

// pullFloor is the same work without a runtime: one layer after another.
func (b *bench) pullFloor(ctx context.Context, name string, img pulled) error {
	dir := filepath.Join(benchDir, "floor", "untar")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	spent, err := timed(func() error {
		for _, layer := range img.layers {
			url := b.registry.blobURL(img.repo, layer.digest)
			cmd := exec.CommandContext(ctx, "sh", "-c", `curl -sSf "$1" | gzip -dc | tar -x -C "$2"`, "sh", url, dir)
			cmd.Stderr = os.Stderr
			if err := b.children.run(cmd); err != nil {
				return fmt.Errorf("curl | gzip | tar: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.report.time(name, nameFloor, spent)
	return nil
}

// measureKnown pulls again an image that is there: only the manifest is asked for.
func (b *bench) measureKnown(ctx context.Context) error {
	calls := 0
	return b.turns(ctx, warmups+3*b.opts.n, func(r *runtimeUnderTest) error {
		spent, err := timed(func() error { return r.pull(ctx, b.busybox) })
		if calls++; err == nil && calls > warmups*len(b.runtimes) {
			b.report.time("pull.known", r.name, spent)
		}
		return err
	})
}

// measureEight pulls eight different images at once and reads the daemon's peak.
func (b *bench) measureEight(ctx context.Context) error {
	var images []pulled
	defer func() { b.registry.drop(images...) }()
	for i := range 8 {
		s := shapeEight
		s.name = fmt.Sprintf("%s%d", s.name, i)
		img, err := b.registry.publishShape(ctx, s, uint64(10+i))
		if err != nil {
			return err
		}
		images = append(images, img)
	}
	return b.turns(ctx, max(1, b.opts.pulls/2), func(r *runtimeUnderTest) error {
		return b.pullTogether(ctx, r, images)
	})
}

func (b *bench) pullTogether(ctx context.Context, r *runtimeUnderTest, images []pulled) error {
	pid := r.cmd.Process.Pid
	// 5 sets the high-water mark back to the present size.
	if err := os.WriteFile(procFile(pid, "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset the peak: %w", err)
	}
	spent, err := timed(func() error {
		group, ctx := errgroup.WithContext(ctx)
		for _, img := range images {
			group.Go(func() error { return r.pull(ctx, img.ref) })
		}
		return group.Wait()
	})
	if err != nil {
		return err
	}
	peak, err := field(pid, "status", "VmHWM")
	if err != nil {
		return err
	}
	b.report.time("pull.eight", r.name, spent)
	b.report.value("pull.peak8", r.name, "MiB", float64(peak)/1024)
	for _, img := range images {
		if err := r.remove(ctx, img.ref); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the layers of images that are no longer needed; the tmpfs is memory.
func (l *loopback) drop(images ...pulled) {
	for _, img := range images {
		for _, layer := range img.layers {
			_ = os.Remove(layer.path)
		}
	}
}
