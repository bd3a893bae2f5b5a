package crash

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// syncCalls are the system calls that wait for the disk, or have it work.
var syncCalls = map[uint64]string{
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNC_FILE_RANGE: "sync_file_range",
	unix.SYS_SYNCFS: "syncfs", unix.SYS_SYNC: "sync", unix.SYS_MSYNC: "msync",
}

// flush names such a call with the file that it is made for; "" for the others.
func (tr *tracer) flush(nr uint64, args [6]uint64) string {
	name, ok := syncCalls[nr]
	switch {
	case nr == unix.SYS_OPENAT && args[2]&unix.O_DSYNC != 0: // of which O_SYNC has the bit too
		return "open for flushed writes " + readString(tr.pid, uintptr(args[1]))
	case !ok:
		return ""
	}
	file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tr.pid, args[0]))
	if err != nil {
		return name // sync(2) has none
	}
	return name + " " + strings.TrimPrefix(file, tr.below)
}

// flushed gives the flushes since it was called last.
func (tr *tracer) flushed() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	since := tr.syncs
	tr.syncs = nil
	return since
}

// counted is a verb, with what each of its flushes to disk is for.
type counted struct {
	verb string
	call func()
	why  []string
}

// TestSyncsOfEachVerb: no verb has more flushes to disk, of the daemon and its shim
// together, than are told of here. Each is part of what the verb does before it answers, so
// that their number does not depend on time.
func TestSyncsOfEachVerb(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.pull(busybox)
	d.pod("stays").start("c", "sleep 1000") // with it the shim, and directories
	traced := []*tracer{trace(t, d.PID(), 0, d.Dir), trace(t, d.shimPID(), 0, d.Dir)}
	for _, c := range slices.Concat(countedOfPods(d), countedOfImages(d)) {
		c.call()
		var made []string
		for _, tr := range traced {
			made = append(made, tr.flushed()...)
		}
		t.Logf("%d flushes of %s", len(made), c.verb)
		if len(made) == 0 && (c.verb == "RunPodSandbox" || c.verb == "PullImage") {
			t.Errorf("%s has no flush to disk: is the daemon followed?", c.verb)
		}
		if len(made) > len(c.why) {
			t.Errorf("%s has %d flushes to disk:\n\t%s\nIt may have %d:\n\t%s", c.verb,
				len(made), strings.Join(made, "\n\t"), len(c.why), strings.Join(c.why, "\n\t"))
		}
	}
}

// countedOfPods is the life of a pod with a container that ends and one that is stopped.
func countedOfPods(d *daemon) []counted {
	var p *pod
	var ends, stops *ctr
	return []counted{
		{"RunPodSandbox", func() { p = d.pod("counted") }, []string{
			"pod.json: what is attached, and was not undone, is known after a loss of power",
			"the directory of pod.json: its name is too",
			"the network's record: DEL gets what ADD was given",
			"pod.json, whole: its data comes before its new name",
		}},
		{"CreateContainer", func() { ends = p.create(client.Shell("ends", "exec sleep 1000")) }, []string{
			"container.json, whole: its data comes before its new name",
		}},
		{"StartContainer", func() { ends.start() }, nil},
		{"the exit of a container", func() { ends.killed() }, []string{
			"status.json: an exit that was reported is not forgotten",
			"the directory of status.json: its new content is found",
		}},
		{"RemoveContainer", func() { ends.Remove() }, []string{
			"container.json says that it goes: it does not come back with half of its files",
		}},
		{"CreateContainer and StartContainer", func() {
			stops = p.start("c", "trap 'exit 7' TERM; echo once; while :; do usleep 1000; done")
			stops.saidOnce() // it has set its trap
		}, []string{"container.json, as above"}},
		{"UpdateContainerResources", func() { stops.update() }, []string{"container.json has the new limits"}},
		{"ExecSync", func() { stops.Sh("true") }, nil},
		{"StopContainer", func() { stops.Stop(patience) }, []string{"status.json, as above", "its directory"}},
		{"StopPodSandbox", func() { p.Stop() }, []string{
			"pod.json says that it is being stopped: the next daemon goes on with it",
			"pod.json says that it holds nothing any more",
			"status.json of the pause: the end of the pod is not forgotten",
			"the directory of status.json",
		}},
		{"RemovePodSandbox", func() { p.Remove() }, []string{"pod.json says that it goes"}},
	}
}

func countedOfImages(d *daemon) []counted {
	return []counted{
		{"PullImage", func() { d.pull(layered) }, []string{
			"the file system of the layers, once for all their files",
			"the directory of the layers: their names",
			"the image's record",
			"the directory of the records: its name",
		}},
		{"RemoveImage", func() { d.removeImage(layered) }, []string{
			"the directory of the records: no image is listed again whose layers go",
		}},
	}
}

// killed ends the container's process from outside, and waits until that is known.
func (c *ctr) killed() {
	c.T.Helper()
	_, pid := c.details()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		c.T.Fatal(err)
	}
	c.Ended()
}

func (c *ctr) update() {
	c.T.Helper()
	r := &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 77}}
	if _, err := c.Runtime.UpdateContainerResources(within(c.T), r); err != nil {
		c.T.Fatal(err)
	}
}
