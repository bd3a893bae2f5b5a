package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// measureDisk pulls once onto the real disk: what is written, how often the
// disk is waited for. Its time is given for completeness; disks throttle.
func (b *bench) measureDisk(ctx context.Context) error {
	img, err := b.registry.publishShape(ctx, shape200, 1)
	if err != nil {
		return err
	}
	defer b.registry.drop(img)
	for i, name := range b.opts.runtimes {
		if err := b.diskOf(ctx, name, img, len(b.opts.runtimes)+i); err != nil {
			return err
		}
	}
	return nil
}

// diskOf runs a second daemon of the runtime with its root on disk.
func (b *bench) diskOf(ctx context.Context, name string, img pulled, index int) (err error) {
	p := b.place(name+"-disk", index)
	p.root = filepath.Join(os.Getenv(diskEnv), name)
	r, err := prepare(name, b.opts, p, b.children)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop(), r.keepLog(b.opts.logs)) }()
	if err := r.start(ctx); err != nil {
		return err
	}
	if err := b.diskBytes(ctx, r, img); err != nil {
		return r.explain(err)
	}
	return r.explain(b.diskSyncs(ctx, r, img))
}

func (b *bench) diskBytes(ctx context.Context, r *runtimeUnderTest, img pulled) error {
	pid := r.cmd.Process.Pid
	before, err := field(pid, "io", "write_bytes")
	if err != nil {
		return err
	}
	spent, err := timed(func() error { return r.pull(ctx, img.ref) })
	if err != nil {
		return err
	}
	after, err := field(pid, "io", "write_bytes")
	if err != nil {
		return err
	}
	b.report.time("disk.pull", r.name, spent)
	b.report.value("disk.written", r.name, "MiB", float64(after-before)/mib)
	return r.remove(ctx, img.ref)
}

// diskSyncs counts the calls that wait for the disk during a second pull. It is
// left out where strace is not installed.
func (b *bench) diskSyncs(ctx context.Context, r *runtimeUnderTest, img pulled) error {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil
	}
	// With a process to watch and a -o file, strace says when it is attached.
	out := filepath.Join(r.dir, "strace")
	cmd := exec.CommandContext(ctx, strace, "-f", "-c", "-S", "name", "-U", "name,calls", "-o", out,
		"-e", "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync", "-p", strconv.Itoa(r.cmd.Process.Pid))
	attached, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := b.children.start(cmd); err != nil {
		return err
	}
	buf := make([]byte, 256)
	_, _ = attached.Read(buf)
	pullErr := r.pull(ctx, img.ref)
	_ = cmd.Process.Signal(unix.SIGINT)
	_ = b.children.wait(cmd)
	if pullErr != nil {
		return fmt.Errorf("under strace: %w", pullErr)
	}
	calls, err := countSyncs(out)
	if err != nil {
		return err
	}
	b.report.value("disk.syncs", r.name, "calls", float64(calls))
	return r.remove(ctx, img.ref)
}

// countSyncs sums the calls of a table of strace -c with the columns name, calls.
func countSyncs(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	total := 0
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !strings.Contains(fields[0], "sync") {
			continue
		}
		calls, err := strconv.Atoi(fields[1])
		if err != nil {
			return 0, fmt.Errorf("strace's table: %q", line)
		}
		total += calls
	}
	return total, nil
}
