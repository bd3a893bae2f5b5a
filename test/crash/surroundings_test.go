package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// conditions are what the node tells the kubelet: "" is ready, else why not.
func (d *daemon) conditions() string {
	d.t.Helper()
	r, err := d.Runtime.Status(within(d.t), &runtimeapi.StatusRequest{})
	if err != nil {
		d.t.Fatalf("Status: %v", err)
	}
	var why []string
	for _, c := range r.GetStatus().GetConditions() {
		if !c.GetStatus() && c.GetType() == "RuntimeReady" {
			why = append(why, c.GetReason()+": "+c.GetMessage())
		}
	}
	return strings.Join(why, "; ")
}

// hostPod is a pod on the host's network.
func (d *daemon) hostPod(name string) *runtimeapi.PodSandboxConfig {
	d.t.Helper()
	c := d.podConfig(name)
	c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
	}
	return c
}

// TestDiskIsFull: without room or without inodes under the node's directories, a pod is
// refused with the reason, and the node says it too; what runs goes on, what is to go goes,
// and when there is room again all is as before.
func TestDiskIsFull(t *testing.T) {
	for _, name := range []string{"blocks", "inodes"} {
		t.Run(name, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
			d.pull(busybox)
			d.witness = d.run(d.hostPod("witness")).start("counter", client.Counter)
			p := d.run(d.hostPod("goes"))
			p.start("c", "sleep 1000")
			c := d.hostPod("refused")
			again := d.hostPod("again")
			d.fill(name)
			if why := d.conditions(); why == "" {
				t.Error("the node says that it is ready")
			} else {
				t.Logf("not ready: %s", why)
			}
			began := time.Now()
			_, err := d.RunPod(within(t), c)
			if err == nil || !strings.Contains(err.Error(), "space") && !strings.Contains(err.Error(), "room") {
				t.Errorf("a pod without room: %v", err)
			}
			if took := time.Since(began); took > bound(10*time.Second) {
				t.Errorf("the refusal took %v", took)
			}
			d.witness.stillRuns()
			if got := strings.TrimSpace(d.witness.Sh("echo still here")); got != "still here" {
				t.Errorf("exec in the witness says %q", got)
			}
			p.Remove()
			d.empty()
			eventually(t, "the node is ready again", func() bool { return d.conditions() == "" })
			q := d.run(again)
			q.start("c", "sleep 1000")
			q.Remove()
			d.witness.stillRuns()
		})
	}
}

// fill leaves no block or no inode on the node's file system, a tmpfs.
func (d *daemon) fill(what string) {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.Dir, &st); err != nil {
		d.t.Fatal(err)
	}
	limit := fmt.Sprintf("size=%d", (st.Blocks-st.Bfree)*uint64(st.Bsize))
	if what == "inodes" {
		limit = fmt.Sprintf("nr_inodes=%d", st.Files-st.Ffree)
	}
	if err := unix.Mount("", d.Dir, "", unix.MS_REMOUNT, limit); err != nil {
		d.t.Fatalf("remount with %s: %v", limit, err)
	}
	// What is left to the kernel's own counting.
	for i := range 10_000 {
		f, err := os.Create(filepath.Join(d.Dir, fmt.Sprint("fill-", i)))
		if err != nil {
			return
		}
		_, err = f.Write(make([]byte, 4096))
		f.Close()
		if err != nil {
			return
		}
	}
}

// empty undoes fill.
func (d *daemon) empty() {
	d.t.Helper()
	if err := unix.Mount("", d.Dir, "", unix.MS_REMOUNT, "size=1g,nr_inodes=1m"); err != nil {
		d.t.Fatal(err)
	}
	filled, _ := filepath.Glob(filepath.Join(d.Dir, "fill-*"))
	for _, f := range filled {
		if err := os.Remove(f); err != nil {
			d.t.Fatal(err)
		}
	}
}

// TestAThousandCallsAtOnce: all are answered, each in bounded time, and nothing of them
// stays in the daemon.
func TestAThousandCallsAtOnce(t *testing.T) {
	const calls = 1000
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	d.pull(busybox)
	c := d.run(d.hostPod("p")).start("c", "sleep 1000")
	d.witness = c
	files := openFiles(t, d.PID())
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	var all sync.WaitGroup
	var failed atomic.Int64
	var first atomic.Pointer[error]
	for i := range calls {
		all.Go(func() {
			var err error
			switch i % 5 {
			case 0:
				_, err = d.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			case 1:
				_, err = d.ContainerStatus(ctx, c.ID)
			case 2:
				_, err = d.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
			case 3:
				_, err = d.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
			case 4:
				var r *runtimeapi.ExecSyncResponse
				if r, err = d.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}}); err == nil && r.GetExitCode() != 0 {
					err = fmt.Errorf("exit code %d", r.GetExitCode())
				}
			}
			if err != nil {
				failed.Add(1)
				first.CompareAndSwap(nil, &err)
			}
		})
	}
	all.Wait()
	if err := first.Load(); err != nil {
		t.Errorf("%d of %d calls at once failed, such as with: %v", failed.Load(), calls, *err)
	}
	eventually(t, "the files of the calls are closed", func() bool { return openFiles(t, d.PID()) <= files+5 })
	c.stillRuns()
}

// openFiles is how many files a process has open.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestManyExitedContainers: the next daemon knows them all with their exit codes, is soon
// up, and they can be removed. `make crash` has ten times as many.
func TestManyExitedContainers(t *testing.T) {
	ended, together := 100, 8
	if os.Getenv("BERTH_SOAK") != "" {
		ended = 1000
	}
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	d.pull(busybox)
	p := d.run(d.hostPod("many"))
	ids := make([]string, ended)
	slots := make(chan struct{}, together)
	errs := make(chan error, ended)
	for i := range ended {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			id, err := d.CreateContainer(ctx, p.Request(client.Shell(fmt.Sprint("c", i), fmt.Sprintf("exit %d", i%100))))
			ids[i] = id
			errs <- errors.Join(err, d.StartContainer(ctx, id))
		}()
	}
	for range ended {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	allExited := func() error {
		r, err := d.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{
			Filter: &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}},
		})
		if err == nil && len(r.GetContainers()) != ended {
			err = fmt.Errorf("%d of %d have ended", len(r.GetContainers()), ended)
		}
		return err
	}
	eventually(t, "all have ended", func() bool { return allExited() == nil })
	d.kill()
	began := time.Now()
	d.restart()
	t.Logf("the next daemon was ready after %v with %d exited containers", time.Since(began), ended)
	if err := allExited(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	for i, id := range ids {
		st, err := d.ContainerStatus(within(t), id)
		if err != nil || int(st.GetExitCode()) != i%100 {
			t.Errorf("container %d: code %d, %v", i, st.GetExitCode(), err)
		}
	}
	p.Remove()
}

// TestReaderOfTheLogIsGone: a daemon whose standard error nobody reads any more, as when
// the journal has ended, goes on.
func TestReaderOfTheLogIsGone(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	d.pull(busybox)
	d.witness = d.run(d.hostPod("witness")).start("counter", client.Counter)
	journal := filepath.Join(d.Dir, "journal")
	if err := unix.Mkfifo(journal, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(journal, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	file := d.LogFile
	d.LogFile = journal // into which what a start logs fits
	d.crash()
	d.LogFile = file
	pid := d.PID()
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	p := d.run(d.hostPod("unlogged"))
	p.start("c", "sleep 1000")
	p.Remove()
	if now := d.PID(); now != pid {
		t.Errorf("the daemon is process %d, was %d: %s", now, pid, d.Exit())
	}
	d.witness.stillRuns()
	d.crash() // with its own log again
}
