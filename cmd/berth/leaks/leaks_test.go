package leaks

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/cgroup"
	"berth/oci/flock"
)

const (
	livingPod = "11111111111111111111111111111111111111111111111111111111111111aa"
	livingCtr = "22222222222222222222222222222222222222222222222222222222222222aa"
	lostPod   = "33333333333333333333333333333333333333333333333333333333333333aa"
	lostCtr   = "44444444444444444444444444444444444444444444444444444444444444aa"
	usedLayer = "5555555555555555555555555555555555555555555555555555555555555555"
	lostLayer = "6666666666666666666666666666666666666666666666666666666666666666"
	podLayer  = "7777777777777777777777777777777777777777777777777777777777777777"
	dropped   = ".dropped-" + usedLayer + "-1" // by a repair, under a container
)

// planted is a node with a pod, a container and an image that have records, and one leak of
// each kind, as the kernel shows them.
type planted struct {
	Node
	t *testing.T
	// prefix makes the cgroups' names this node's own: two are planted side by side.
	prefix string
}

func plant(t *testing.T, prefix string) *planted {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	p := &planted{t: t, prefix: prefix, Node: Node{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDirs: []string{dir}}}
	p.dir(p.CNIConfDir)
	for _, sub := range []string{"pods", "containers", "shims"} {
		p.dir(p.State, sub)
	}
	p.file(`{"sandbox_layers":["sha256:`+podLayer+`"]}`, p.Root, "pods", p.id(livingPod), "pod.json")
	p.file(`{"layers":["sha256:`+usedLayer+`"]}`, p.Root, "pods", p.id(livingPod), "containers", livingCtr, "container.json")
	p.file("{}", p.Root, "images", "sha.json")
	for _, layer := range []string{usedLayer, lostLayer, podLayer, dropped, ".tmp-1", ".empty"} {
		p.file("x", p.Root, "layers", layer, "file")
	}
	for _, pod := range []string{livingPod, lostPod} {
		p.tmpfs(p.State, "pods", p.id(pod), "shm")
		p.file("{}", p.Root, "cni", "results", "net-"+p.id(pod)+"-eth0")
		p.cgroup(p.id(pod))
	}
	p.tmpfs(p.State, "containers", livingCtr, "rootfs")
	p.tmpfs(p.State, "containers", lostCtr, "rootfs")
	p.dir(p.Root, "pods", p.id(livingPod), "containers", lostCtr, "upper")
	p.dir(p.Root, "pods", p.id(lostPod))
	p.tmpfs(p.Root, "images") // the operator's own
	p.file(`{"layers":[]}`, p.Root, "images", "sha.json")
	for _, name := range []string{".tmp-pod.json-1", ".tmp-pod.json-2"} {
		p.file("{", p.Root, "pods", p.id(livingPod), name)
	}
	old := time.Now().Add(-2 * oldEnough)
	if err := os.Chtimes(filepath.Join(p.Root, "pods", p.id(livingPod), ".tmp-pod.json-1"), old, old); err != nil {
		t.Fatal(err)
	}
	p.file("", p.State, "shims", "dead", "lock")
	p.file("", p.State, "shims", "alive", "lock")
	held, err := flock.Try(filepath.Join(p.State, "shims", "alive", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	return p
}

// id is an ID that only this node has.
func (p *planted) id(id string) string { return p.prefix + id[len(p.prefix):] }

func (p *planted) dir(parts ...string) string {
	p.t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	return dir
}

func (p *planted) file(text string, parts ...string) {
	p.t.Helper()
	p.dir(parts[:len(parts)-1]...)
	if err := os.WriteFile(filepath.Join(parts...), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *planted) tmpfs(parts ...string) {
	p.t.Helper()
	dir := p.dir(parts...)
	if err := unix.Mount("leak", dir, "tmpfs", 0, ""); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// cgroup makes that of a pod, in one hierarchy, with a process in a group below it.
func (p *planted) cgroup(pod string) {
	p.t.Helper()
	top := "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err != nil {
		top += "/pids"
	}
	dir := filepath.Join(top, "berth-"+pod[:13])
	below := p.dir(dir, "ctr")
	cgroup.Mark([]string{dir}, p.State)
	sleep := exec.Command("sleep", "600")
	if err := sleep.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = sleep.Wait()
	}()
	p.t.Cleanup(func() {
		_ = sleep.Process.Kill()
		<-ended
		_ = cgroup.RemoveEmptied(dir, time.Second)
	})
	if err := os.WriteFile(filepath.Join(below, "cgroup.procs"), strconv.AppendInt(nil, int64(sleep.Process.Pid), 10), 0); err != nil {
		p.t.Fatal(err)
	}
}

// found are the leaks, as kind and the path below root or state.
func (p *planted) found() []string {
	p.t.Helper()
	things, err := p.Find()
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, thing := range things {
		name := strings.NewReplacer(filepath.Dir(p.Root)+"/", "", p.id(lostPod), "LOSTPOD", p.id(livingPod), "POD", p.id(lostPod)[:13], "LOSTPOD", lostCtr, "LOSTCTR", lostLayer, "LOST").Replace(thing.Name)
		out = append(out, thing.Kind+" "+name)
	}
	slices.Sort(out)
	return out
}

var leaksOfEachKind = []string{
	"cgroup berth-LOSTPOD",
	"directory root/pods/LOSTPOD",
	"directory root/pods/POD/containers/LOSTCTR",
	"directory state/containers/LOSTCTR",
	"directory state/pods/LOSTPOD",
	"file root/pods/POD/.tmp-pod.json-1",
	"layer root/layers/.tmp-1",
	"layer root/layers/LOST",
	"mount state/containers/LOSTCTR/rootfs",
	"mount state/pods/LOSTPOD/shm",
	"network attachment of pod LOSTPOD",
	"shim state/shims/dead",
}

// TestLeaksOfEachKind: a leak of each kind is found and removed; what has a record stays,
// and so does all of the daemon beside.
func TestLeaksOfEachKind(t *testing.T) {
	p, neighbour := plant(t, "aaaaa"), plant(t, "bbbbb")
	if got := p.found(); !slices.Equal(got, leaksOfEachKind) {
		t.Errorf("found are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(leaksOfEachKind, "\n"))
	}
	unlock, err := p.Lock()
	if err != nil {
		t.Fatal(err)
	}
	things, err := p.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Repair(t.Context(), things); err != nil {
		t.Error(err)
	}
	unlock()
	if left := p.found(); len(left) > 0 {
		t.Errorf("left are\n%s", strings.Join(left, "\n"))
	}
	for _, path := range []string{
		filepath.Join(p.Root, "pods", p.id(livingPod), ".tmp-pod.json-2"), filepath.Join(p.Root, "layers", usedLayer, "file"),
		filepath.Join(p.Root, "layers", podLayer, "file"), filepath.Join(p.Root, "layers", dropped, "file"),
		filepath.Join(p.Root, "layers", ".empty"), filepath.Join(p.State, "containers", livingCtr, "rootfs"),
		filepath.Join(p.Root, "cni", "results", "net-"+p.id(livingPod)+"-eth0"), filepath.Join(p.Root, "images", "sha.json"),
	} {
		if isGone(path) {
			t.Errorf("%s has an owner and is gone", path)
		}
	}
	dirs := cgroup.MarkedFor(p.State)
	if own := dirs["berth-"+p.id(livingPod)[:13]]; len(dirs) != 1 || len(own) == 0 {
		t.Errorf("of the cgroups are left: %v", dirs)
	} else if pids, err := cgroup.PIDs(own[0]); err != nil || len(pids) != 1 {
		t.Errorf("in the cgroup of the pod that lives are %v, %v", pids, err)
	}
	if got := neighbour.found(); !slices.Equal(got, leaksOfEachKind) {
		t.Errorf("of the neighbour are left\n%s", strings.Join(got, "\n"))
	}
}

// TestNothingIsRemovedWhileADaemonRuns: it would be removed under the daemon's hands.
func TestNothingIsRemovedWhileADaemonRuns(t *testing.T) {
	p := plant(t, "ccccc")
	held, err := flock.Try(filepath.Join(p.Root, lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := p.Lock(); !errors.Is(err, ErrRunning) {
		t.Errorf("the lock of a running daemon: %v", err)
	}
	things, err := p.Find()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(things, func(t Thing) bool { return t.Kind == kindLayer }) {
		t.Error("layers, which a pull may be making, are called leaks")
	}
	for _, err := range []error{p.Repair(t.Context(), things), p.Wipe(t.Context(), things)} {
		if !errors.Is(err, ErrRunning) {
			t.Errorf("a repair beside a running daemon: %v", err)
		}
	}
}

// TestAnUnreadableRecordKeepsWhatMayBeItsOwn: it can't be known what it names.
func TestAnUnreadableRecordKeepsWhatMayBeItsOwn(t *testing.T) {
	p := plant(t, "ddddd")
	p.file("{", p.Root, "images", "torn.json")
	p.file("{", p.Root, "pods", p.id(livingPod), "pod.json")
	want := slices.DeleteFunc(slices.Clone(leaksOfEachKind), func(l string) bool { return l == "layer root/layers/LOST" })
	if got := p.found(); !slices.Equal(got, want) {
		t.Errorf("found are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestWipeLeavesNothing but the images, when they are not asked for, and the neighbour.
func TestWipeLeavesNothing(t *testing.T) {
	for _, images := range []bool{false, true} {
		p, neighbour := plant(t, "eeeee"), plant(t, "fffff")
		unlock, err := p.Lock()
		if err != nil {
			t.Fatal(err)
		}
		all, err := p.Everything(images)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(filepath.Join(p.Root, "images"), 0); err != nil { // the operator's; it can't be removed
			t.Fatal(err)
		}
		if err := p.Wipe(t.Context(), all); err != nil {
			t.Error(err)
		}
		unlock()
		for _, dir := range []string{"root/pods", "state/pods", "state/containers", "state/shims", "root/cni"} {
			if left, _ := names(filepath.Join(filepath.Dir(p.Root), dir)); len(left) > 0 {
				t.Errorf("%s has %v", dir, left)
			}
		}
		if left, err := mountsBelow(p.Root, p.State); err != nil || len(left) > 0 {
			t.Errorf("mounts: %v, %v", left, err)
		}
		if dirs := cgroup.MarkedFor(p.State); len(dirs) > 0 {
			t.Errorf("cgroups: %v", dirs)
		}
		if gone := isGone(filepath.Join(p.Root, "layers", usedLayer)); gone != images {
			t.Errorf("images are to go: %v, a layer is gone: %v", images, gone)
		}
		if got := neighbour.found(); !slices.Equal(got, leaksOfEachKind) {
			t.Errorf("of the neighbour are left\n%s", strings.Join(got, "\n"))
		}
	}
}
