package crash

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

var powerCuts = flag.Int("cuts", 24, "losses of power that TestPowerCuts tries on each file system")

// TestPowerCuts: whatever of the writes since the last flush is lost with the power, the
// daemon of the next boot is ready, knows all that it had answered for, lists nothing that
// is not whole, and has no record that it can't read.
func TestPowerCuts(t *testing.T) {
	for name, mkfs := range powerFilesystems {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(mkfs[0]); err != nil {
				t.Skip(err)
			}
			t.Parallel()
			losePower(t, newPowerDisk(t, mkfs), *powerCuts)
		})
	}
}

func losePower(t *testing.T, disk *powerDisk, n int) {
	t.Helper()
	s := &powerScript{disk: disk}
	disk.on()
	s.run(t)
	disk.off()
	log := disk.log()
	var flushes, bytes int64
	for _, w := range log {
		if bytes += w.size; w.flush {
			flushes++
		}
	}
	t.Logf("%d writes of %d KiB and %d flushes; %d promises", len(log)-int(flushes), bytes>>10, flushes, len(s.promises))
	replay := disk.replay(log)
	for _, c := range cuts(log, s.from, s.to, n, random(t)) {
		replay.after(c)
		s.survive(t, c, log[c.records-1].end())
		notePowerCut(t.Failed())
		if t.Failed() {
			return // the disks of the others are alike
		}
	}
}

// promise is what holds after a loss of power at any moment from the answer that promised
// it until the call that may change it.
type promise struct {
	text     string
	from, to int64 // positions in the log of the disk; to 0: for ever
	holds    func(*survivor) error
}

// powerScript is what the daemon does while the disk takes notes.
type powerScript struct {
	disk     *powerDisk
	from, to int64
	promises []*promise
	trees    map[string]string // what each layer is when whole, by its directory's name
}

func (s *powerScript) promise(text string, holds func(*survivor) error) *promise {
	p := &promise{text: text, from: s.disk.now(), holds: holds}
	s.promises = append(s.promises, p)
	return p
}

// ends says that a call begins that may change what was promised.
func (s *powerScript) ends(promises ...*promise) {
	for _, p := range promises {
		p.to = s.disk.now()
	}
}

func (s *powerScript) options() node.Options {
	return node.Options{Dir: filepath.Join(s.disk.mount, "node"), NoNetwork: true}
}

func (s *powerScript) run(t *testing.T) {
	opt := s.options()
	opt.Registry = images
	n, err := node.Start(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Node: n, t: t}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.from = s.disk.now()
	d.pull(busybox)
	s.promise("busybox is listed", listed(busybox))
	d.pull(layered)
	pulled := s.promise("the image of layers is listed", listed(layered))
	s.trees = layerTrees(t, n.Root)
	var pods []*pod
	var ends []*promise
	for i := range 3 {
		p, kept := s.pod(d, fmt.Sprint("pod-", i))
		pods, ends = append(pods, p), append(ends, kept...)
	}
	s.ends(pulled)
	if err := d.RemoveImage(within(t), layered); err != nil {
		t.Fatal(err)
	}
	s.ends(ends...)
	for _, p := range pods[:2] {
		p.Remove()
	}
	d.pull(layered)
	s.promise("the image that was pulled again is listed", listed(layered))
	s.pod(d, "last")
	s.to = s.disk.now()
}

// pod runs a pod with a container that ends, one that runs, and one that is removed. Nothing
// is promised of pods and containers that only ran: with the power they are gone anyway.
func (s *powerScript) pod(d *daemon, name string) (*pod, []*promise) {
	cfg := d.podConfig(name)
	cfg.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
	}
	p := d.run(cfg)
	ended := p.start("ended", "exit 7")
	ended.Ended()
	kept := []*promise{s.promise("the exit of a container of "+name+" is known", exited(ended.ID, 7, "Error"))}
	p.start("running", "exec sleep 1000")
	removed := p.start("removed", "exit 3")
	removed.Ended()
	gone := s.promise("the exit of a container of "+name+" is known until it is removed", exited(removed.ID, 3, "Error"))
	s.ends(gone)
	removed.Remove()
	return p, kept
}

// survivor is the daemon of the boot after a loss of power.
type survivor struct {
	*client.Client
	t    *testing.T
	root string
}

func (s *powerScript) survive(t *testing.T, c cut, at int64) {
	t.Helper()
	s.disk.command("mount", "-o", "loop", s.disk.file("cut"), s.disk.mount)
	defer s.disk.unmount()
	opt := s.options()
	for _, name := range []string{"run", "notify", "berth.sock"} { // on a tmpfs of a real node
		s.disk.must(os.RemoveAll(filepath.Join(opt.Dir, name)))
	}
	n, err := node.Start(context.Background(), opt)
	if err != nil {
		t.Errorf("after record %d, where %s, the daemon does not start: %v", c.records, c.name, err)
		return
	}
	v := &survivor{Client: n.Client, t: t, root: n.Root}
	errs := []error{v.whole(s.trees), v.readable()}
	for _, p := range s.promises {
		if at < p.from || p.to != 0 && at >= p.to {
			continue
		}
		if err := p.holds(v); err != nil {
			errs = append(errs, fmt.Errorf("promised that %s: %w", p.text, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Errorf("after record %d, where %s:\n%v\n%s", c.records, c.name, err, n.Tail(20))
	}
	if err := n.Close(); err != nil {
		t.Errorf("after record %d, where %s: %v", c.records, c.name, err)
	}
}

func listed(image string) func(*survivor) error {
	return func(v *survivor) error {
		r, err := v.Images.ImageStatus(within(v.t), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		if err == nil && r.GetImage() == nil {
			err = errors.New("it is not")
		}
		return err
	}
}

func exited(id string, code int32, reason string) func(*survivor) error {
	return func(v *survivor) error {
		r, err := v.Runtime.ContainerStatus(within(v.t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		st := r.GetStatus()
		if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != code || st.GetReason() != reason {
			return fmt.Errorf("it is %v with %d, %s, want %d, %s", st.GetState(), st.GetExitCode(), st.GetReason(), code, reason)
		}
		return nil
	}
}

// readable: no record is set aside as damaged.
func (v *survivor) readable() error {
	return filepath.WalkDir(v.root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil && errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err == nil && (strings.HasSuffix(path, ".bad") || strings.Contains(path, "quarantine")) && !strings.Contains(path, "/layers/") {
			return fmt.Errorf("%s could not be read", path)
		}
		return err
	})
}

// whole: each layer of each image on record is there as it was when it was unpacked.
func (v *survivor) whole(want map[string]string) error {
	records, err := filepath.Glob(filepath.Join(v.root, "images", "*.json"))
	if err != nil {
		return err
	}
	have := layerTrees(v.t, v.root)
	for _, file := range records {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var record struct {
			Layers []struct {
				ChainID string `json:"chain_id"`
			} `json:"layers"`
		}
		if err := json.Unmarshal(data, &record); err != nil || len(record.Layers) == 0 {
			return fmt.Errorf("%s: %s: %w", file, data, err)
		}
		for _, l := range record.Layers {
			name := strings.TrimPrefix(l.ChainID, "sha256:")
			if have[name] == "" || have[name] != want[name] {
				return fmt.Errorf("%s is listed, and its layer %s is\n%s\nwas\n%s", file, name, have[name], want[name])
			}
		}
	}
	return nil
}

// layerTrees tells what is in each layer: names, modes, links and the sums of the files.
func layerTrees(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	layers, err := os.ReadDir(filepath.Join(root, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		var lines []string
		dir := filepath.Join(root, "layers", l.Name())
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line, err := describe(path, e)
			lines = append(lines, strings.TrimPrefix(path, dir)+" "+line)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		slices.Sort(lines)
		out[l.Name()] = strings.Join(lines, "\n")
	}
	return out
}

func describe(path string, e fs.DirEntry) (string, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	switch {
	case e.Type().IsRegular():
		data, err := os.ReadFile(path)
		return fmt.Sprintf("%v %x", st.Mode(), sha256.Sum256(data)), err
	case e.Type()&fs.ModeSymlink != 0:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlink(path, target)
		return fmt.Sprintf("%v %s", st.Mode(), target[:max(n, 0)]), err
	default:
		return st.Mode().String(), nil
	}
}
