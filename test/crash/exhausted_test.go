package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/cgroup"
	"berth/test/client"
	"berth/test/fewfiles"
	"berth/test/node"
)

// starved makes a pod with a container while one of the programs lacks something. It must
// work, or fail soon, with a reason that has one of the texts: then it is true.
func (d *daemon) starved(c *runtimeapi.PodSandboxConfig, texts ...string) bool {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	began := time.Now()
	id, err := d.RunPod(ctx, c)
	if err == nil {
		p := d.podOf(id, c)
		var made string
		if made, err = d.CreateContainer(ctx, p.Request(client.Shell("c", "sleep 1000"))); err == nil {
			err = d.StartContainer(ctx, made)
		}
	}
	d.t.Logf("after %v a pod with a container: %v", time.Since(began).Round(time.Millisecond), err)
	if ctx.Err() != nil {
		d.t.Errorf("no answer within %v", patience)
	}
	if err == nil || d.PID() == 0 {
		return false
	}
	for _, text := range texts {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	d.t.Errorf("the reason of the failure names none of %q: %v", texts, err)
	return false
}

// fedAgain checks that all is well once nothing lacks any more. A daemon that died, as a
// Go program does that can get no thread, is started as systemd would.
func (d *daemon) fedAgain(c *runtimeapi.PodSandboxConfig) {
	d.t.Helper()
	if d.PID() == 0 {
		d.t.Logf("berthd ended: %s\n%s", d.Exit(), d.Tail(3))
		d.restart()
	}
	eventually(d.t, "the node is ready again", func() bool { return d.conditions() == "" })
	for _, found := range d.find(c) {
		d.podOf(found.GetId(), c).Remove()
	}
	p := d.run(d.hostPod("fed-again"))
	p.start("c", "sleep 1000")
	p.Remove()
	d.witness.stillRuns()
	n := d.witness.lines()
	eventually(d.t, "the witness goes on", func() bool { return d.witness.lines() > n })
}

// victims are the programs that may lack something, by name.
var victims = map[string]func(*daemon) int{
	"berthd":     func(d *daemon) int { return d.PID() },
	"berth-shim": (*daemon).shimPID,
}

// TestOutOfFiles: a program that can open no file more refuses what needs one, with the
// reason; what runs goes on, and with files to be had again all is as before.
func TestOutOfFiles(t *testing.T) {
	for name, pid := range victims {
		t.Run(name, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
			d.shimKills = 1
			d.pull(busybox)
			d.witness = d.run(d.hostPod("witness")).start("counter", client.Counter)
			c, reached := d.hostPod("starved"), 0
			// Each limit is met at another place. A file that the program closes is as good
			// as a higher limit: it goes down until calls fail.
			for spare := 15; spare >= 0 || reached == 0; spare-- {
				limit := openFiles(t, pid(d)) + spare
				if limit < 0 {
					t.Fatal("no limit was reached")
				}
				if d.withFiles(pid(d), limit, c) {
					reached++
				}
			}
			t.Logf("%d limits were reached", reached)
			d.noPanic()
		})
	}
}

// withFiles makes a pod while a program may have no more files than that, and tells whether
// the limit was what refused it.
func (d *daemon) withFiles(pid, limit int, c *runtimeapi.PodSandboxConfig) bool {
	d.t.Helper()
	enough := fewfiles.Limit(d.t, pid, limit)
	reached := d.starved(c, unix.EMFILE.Error())
	if why := d.conditions(); why != "" {
		d.t.Logf("not ready: %s", why)
	}
	enough()
	d.fedAgain(c)
	return reached
}

// noPanic: no program survived one, which its log would tell.
func (d *daemon) noPanic() {
	d.t.Helper()
	logs, _ := filepath.Glob(filepath.Join(d.State, "shims", "*", "log"))
	for _, file := range append(logs, d.LogFile) {
		data, err := os.ReadFile(file)
		if err != nil {
			d.t.Error(err)
		}
		if at := bytes.Index(data, []byte("panic")); at >= 0 {
			d.t.Errorf("%s: %.3000s", file, data[at:])
		}
	}
}

// TestOutOfPIDs: a program that can start no process and no thread more refuses what needs
// one, or ends; its successor takes over, and what runs goes on.
func TestOutOfPIDs(t *testing.T) {
	for name, pid := range victims {
		t.Run(name, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true})
			d.shimKills = 1
			d.pull(busybox)
			d.witness = d.run(d.hostPod("witness")).start("counter", client.Counter)
			for _, spare := range []int{0, 2} {
				c := d.podConfig("starved") // berthd starts the plugins of its network
				enough := onlyPIDs(t, d, pid(d), spare)
				d.starved(c, unix.EAGAIN.Error(), "shim is gone", "try again", "newosproc") // the last is a plugin's
				refused := enough()
				t.Logf("with %d processes to spare %d were refused", spare, refused)
				if refused == 0 && spare == 0 {
					t.Error("the limit was not reached")
				}
				d.fedAgain(c)
			}
		})
	}
}

// TestShimDiesOutOfFiles: the shim dies while berthd can open no file for another. Its
// containers run on, a command is refused for now, a stop is not, since the container may be
// what takes the files; nothing is lost when there are files again.
func TestShimDiesOutOfFiles(t *testing.T) {
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	stops := d.pod("stops").start("c", "trap 'exit 7' TERM; : >/ready; while :; do usleep 10000; done")
	stops.Sh("while [ ! -e /ready ]; do usleep 1000; done")
	ended := openPID(t, stops.pid)
	enough := fewfiles.Limit(t, d.PID(), openFiles(t, d.PID()))
	defer enough() // a second time, unless the test has failed
	d.killShim()
	eventually(t, "berthd tells that it can't start a shim", func() bool { return d.logged("can't be replaced yet") })
	d.witness.runsOn()
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := d.Exec(soon, d.witness.ID, "true"); err == nil {
		t.Error("a command ran without a shim")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- d.StopContainer(t.Context(), stops.ID, patience) }()
	// By its signal, which berthd sends when it has waited for a shim for a minute.
	if ended.lives(bound(90 * time.Second)) {
		t.Error("the container was not stopped")
	}
	enough()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if st := stops.Status(); st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 7 {
		t.Errorf("the container that was stopped is %v with code %d, %s", st.GetState(), st.GetExitCode(), st.GetReason())
	}
	stops.p.Remove()
	d.unnoticed()
}

// onlyPIDs lets a process have so many threads and children more, until the function that it
// gives is called, which tells how often the kernel refused one.
func onlyPIDs(t *testing.T, d *daemon, pid, spare int) (enough func() (refused int)) {
	t.Helper()
	top := "/sys/fs/cgroup/pids"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		top = "/sys/fs/cgroup"
	}
	dir := filepath.Join(top, d.CgroupMark+"-starved")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	limit := filepath.Join(dir, "pids.max")
	if _, err := os.Stat(limit); err != nil {
		_ = os.Remove(dir)
		t.Skipf("processes can't be limited here: %v", err)
	}
	was, err := cgroupOf(pid, "pids")
	if err != nil {
		t.Fatal(err)
	}
	move := func(pid int, to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0)
	}
	if err := move(pid, dir); err != nil {
		t.Fatal(err)
	}
	current, err := os.ReadFile(filepath.Join(dir, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(current)))
	if err == nil {
		err = os.WriteFile(limit, strconv.AppendInt(nil, int64(n+spare), 10), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() (refused int) {
		t.Helper()
		events, err := os.ReadFile(filepath.Join(dir, "pids.events"))
		if err == nil {
			_, err = fmt.Sscanf(string(events), "max %d", &refused)
		}
		if err != nil {
			t.Fatalf("pids.events: %q, %v", events, err)
		}
		if err := os.WriteFile(limit, []byte("max"), 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "nothing is left in the cgroup", func() bool {
			pids, err := cgroup.PIDs(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids { // and the pause processes that it started
				if err := move(pid, filepath.Join(top, was)); err != nil && !errors.Is(err, unix.ESRCH) {
					t.Fatal(err)
				}
			}
			return os.Remove(dir) == nil
		})
		return refused
	}
}

// cgroupOf is the path of a process's cgroup in the hierarchy of a controller, or in the
// only one.
func cgroupOf(pid int, controller string) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	unified := ""
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[1] == controller:
			return parts[2], nil
		case parts[1] == "":
			unified = parts[2]
		}
	}
	return unified, err
}
