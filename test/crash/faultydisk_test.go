package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// order tells the disk what to be from now on: well, fail, hang or slow.
func (d *powerDisk) order(what string) {
	d.t.Helper()
	_, err := fmt.Fprintln(d.orders, what)
	d.must(err)
	if line, err := d.answers.ReadString('\n'); err != nil || line != "so it is\n" {
		d.t.Fatalf("the disk, told %q, says %q: %v", what, line, err)
	}
}

// newFaultyDisk is an ext4 upon a disk that is well yet.
func newFaultyDisk(t *testing.T) *powerDisk {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("a disk that fails is a file of a FUSE file system: %v", err)
	}
	d := newPowerDisk(t, powerFilesystems["ext4"])
	d.program.Args = d.program.Args[:3] // it takes no notes
	d.on()
	t.Cleanup(func() {
		d.order("well") // else the kernel waits
		d.off()
	})
	return d
}

// faulty is a node whose root directory is on a disk that can be told to fail, with a pod
// that runs and one that goes.
func faulty(t *testing.T) (*daemon, *powerDisk, *pod) {
	t.Helper()
	disk := newFaultyDisk(t)
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true, Root: disk.root()})
	return d, disk, d.twoPods()
}

// root is the node's root directory.
func (d *powerDisk) root() string { return filepath.Join(d.mount, "root") }

// twoPods makes the witness, and a pod that goes.
func (d *daemon) twoPods() *pod {
	d.t.Helper()
	d.pull(busybox)
	d.witness = d.run(d.hostPod("witness")).start("counter", client.Counter)
	p := d.run(d.hostPod("goes"))
	p.start("c", "sleep 1000")
	return p
}

// readers are calls that need no disk: each is answered in a moment, whatever it does.
func (d *daemon) readersAnswer() {
	d.t.Helper()
	moment := patience / 4 // on a machine that is busy; they take milliseconds
	for name, call := range map[string]func(context.Context) error{
		"ListPodSandbox": func(ctx context.Context) error {
			_, err := d.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return err
		},
		"ContainerStatus": func(ctx context.Context) error {
			_, err := d.ContainerStatus(ctx, d.witness.ID)
			return err
		},
		"ContainerStats": func(ctx context.Context) error {
			_, err := d.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: d.witness.ID})
			return err
		},
		"ListImages": func(ctx context.Context) error {
			_, err := d.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
			return err
		},
		"ExecSync": func(ctx context.Context) error {
			_, err := d.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: d.witness.ID, Cmd: []string{"true"}})
			return err
		},
	} {
		began := time.Now()
		err := call(within(d.t))
		if took := time.Since(began); err != nil || took > moment {
			d.t.Errorf("%s took %v: %v", name, took, err)
		}
	}
	n := d.witness.lines()
	eventually(d.t, "the witness goes on", func() bool { return d.witness.lines() > n })
}

// TestDiskDoesNotAnswer: while the disk of the root directory hangs, and with it whoever
// writes to it, in a sleep that no signal ends, a call that must write ends with its
// client's patience, all others are answered, the node says what is wrong, and what runs
// goes on. Once the disk answers, the calls that waited are found done.
func TestDiskDoesNotAnswer(t *testing.T) {
	d, disk, p := faulty(t)
	c := d.hostPod("waits")
	disk.order("hang")
	for name, call := range map[string]func(context.Context) error{
		"RunPodSandbox": func(ctx context.Context) error {
			_, err := d.RunPod(ctx, c)
			return err
		},
		"RemovePodSandbox": func(ctx context.Context) error {
			_, err := d.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		began := time.Now()
		err := call(ctx)
		cancel()
		if took := time.Since(began); status.Code(err) != codes.DeadlineExceeded || took > 2*time.Second+bound(2*time.Second) {
			t.Errorf("%s with a disk that hangs took %v: %v", name, took, err)
		}
	}
	d.readersAnswer()
	why := ""
	eventually(t, "the node says that its disk hangs", func() bool { why = d.conditions(); return why != "" })
	if !strings.Contains(why, "does not answer") {
		t.Errorf("the node is not ready because: %s", why)
	}
	d.witness.stillRuns()
	disk.order("well")
	eventually(t, "the node is ready again", func() bool { return d.conditions() == "" })
	q := d.run(c) // the call that waited, or its result
	q.start("c", "sleep 1000")
	q.Remove()
	p.Remove()
	d.witness.stillRuns()
}

// TestDiskIsSlow: with a disk that takes its time for every block, everything works, and
// what needs no disk is as fast as ever.
func TestDiskIsSlow(t *testing.T) {
	d, disk, p := faulty(t)
	disk.order("slow 50ms")
	began := time.Now()
	q := d.run(d.hostPod("slowly"))
	q.start("c", "sleep 1000")
	d.readersAnswer()
	if why := d.conditions(); why != "" {
		t.Errorf("with a slow disk the node is not ready: %s", why)
	}
	d.pull(layered)
	d.removeImage(layered)
	q.Remove()
	p.Remove()
	t.Logf("with 50 ms for a block, a pod, a container and an image came and went in %v", time.Since(began).Round(time.Millisecond))
	d.crash()
	d.witness.stillRuns()
}

// TestDiskFails: once the disk fails, the kernel takes the file system of the root directory
// for read-only. Pods are refused with the reason, the node says it, what runs goes on and
// can be stopped; the next daemon ends at once, and says why. When the disk was mended and
// checked, a daemon starts upon it, and what there was can be removed.
func TestDiskFails(t *testing.T) {
	disk := newFaultyDisk(t)
	n, err := node.Start(t.Context(), node.Options{Tmpfs: true, NoNetwork: true, Root: disk.root(), Registry: images})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Node: n, t: t}
	defer func() { _ = n.Close() }() // again, if a check ended the test
	p := d.twoPods()
	d.failsWith(disk)
	began := time.Now()
	if _, err := d.Runtime.StopPodSandbox(within(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Errorf("after %v the stop of a pod fails: %v", time.Since(began), err)
	}
	if c := p.Containers(); len(c) != 1 || c[0].GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the stopped pod has %v", c)
	}
	d.kill()
	began = time.Now()
	if err := d.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), unix.EROFS.Error()) && !strings.Contains(err.Error(), unix.EIO.Error()) {
		t.Errorf("a start upon a disk that fails: %v", err)
	} else if took := time.Since(began); took > bound(10*time.Second) {
		t.Errorf("a start upon a disk that fails took %v to fail", took)
	}
	if err := n.Close(); err == nil {
		t.Error("everything could be removed from a disk that fails")
	}

	disk.order("well")
	disk.unmount()
	if out, err := exec.Command("e2fsck", "-fy", filepath.Join(disk.file("fuse"), "disk")).CombinedOutput(); err != nil && err.Error() != "exit status 1" { // 1: errors were mended
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
	disk.command("mount", "-o", "loop", filepath.Join(disk.file("fuse"), "disk"), disk.mount)
	mended := start(t, node.Options{Tmpfs: true, NoNetwork: true, Root: disk.root()})
	v := &survivor{Client: mended.Client, t: t, root: mended.Root}
	if err := errors.Join(listed(busybox)(v), v.readable()); err != nil {
		t.Errorf("upon the mended disk: %v", err)
	}
	q := mended.run(mended.hostPod("new"))
	q.start("c", "sleep 1000")
	q.Remove()
}

// failsWith makes the disk fail, and checks what the daemon and what runs makes of it.
func (d *daemon) failsWith(disk *powerDisk) {
	d.t.Helper()
	says := func(text string) bool {
		return strings.Contains(text, unix.EIO.Error()) || strings.Contains(text, unix.EROFS.Error())
	}
	c := d.hostPod("refused")
	disk.order("fail")
	began := time.Now()
	if _, err := d.RunPod(within(d.t), c); err == nil || !says(err.Error()) {
		d.t.Errorf("a pod upon a disk that fails: %v", err)
	}
	if took := time.Since(began); took > bound(10*time.Second) {
		d.t.Errorf("the refusal took %v", took)
	}
	why := ""
	eventually(d.t, "the node says that its disk fails", func() bool { why = d.conditions(); return why != "" })
	if !strings.Contains(why, d.Root) || !says(why) {
		d.t.Errorf("the node is not ready because: %s", why)
	}
	d.readersAnswer()
	d.witness.stillRuns()
}

// TestLogDiskFaults: a disk of pods' logs that fails, or does not answer, costs the lines
// that are written meanwhile and nothing else: the container goes on, or waits in its own
// write, and it ends when it is told, in bounded time. Containers whose logs are elsewhere
// notice nothing.
func TestLogDiskFaults(t *testing.T) {
	for _, fault := range []string{"fail", "hang"} {
		t.Run(fault, func(t *testing.T) {
			disk := newFaultyDisk(t)
			d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
			p := d.twoPods()
			c := d.hostPod("logs")
			c.LogDirectory = filepath.Join(disk.mount, "logs")
			if err := os.Mkdir(c.LogDirectory, 0o755); err != nil {
				t.Fatal(err)
			}
			q := d.run(c)
			// Flushed lines, else the kernel would keep them in memory for half a minute.
			talks := q.start("talks", "trap 'exit 9' TERM; while :; do echo 0123456789012345678901234567890123456789; done")
			unix.Sync()
			disk.order(fault)
			d.readersAnswer()
			if why := d.conditions(); why != "" {
				t.Errorf("the node is not ready: %s", why)
			}
			p.start("another", "sleep 1000").Remove()
			began := time.Now()
			talks.Stop(5 * time.Second)
			if took := time.Since(began); took > bound(15*time.Second) {
				t.Errorf("the stop of a container whose log is on the disk took %v", took)
			}
			t.Logf("stopped after %v with code %d", time.Since(began).Round(time.Millisecond), talks.Status().GetExitCode())
			d.witness.stillRuns()
			q.Remove()
			p.Remove()
		})
	}
}
