package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResolveDevices(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := errors.Join(os.Mkdir(sub, 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644),
		os.Symlink("/dev/null", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for path, dev := range map[string]uint64{filepath.Join(dir, "a"): unix.Mkdev(1, 3), filepath.Join(sub, "b"): unix.Mkdev(1, 5)} {
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(dev)); err != nil {
			t.Skip("needs privilege:", err)
		}
	}
	for name, c := range map[string]struct {
		d    *runtimeapi.Device
		want []string
	}{
		"node":      {&runtimeapi.Device{HostPath: dir + "/a", ContainerPath: "/dev/x", Permissions: "r"}, []string{"/dev/x c 1:3 r"}},
		"link":      {&runtimeapi.Device{HostPath: dir + "/link", ContainerPath: "/dev/y"}, []string{"/dev/y c 1:3 rwm"}},
		"directory": {&runtimeapi.Device{HostPath: dir, ContainerPath: "/dev/d/", Permissions: "rw"}, []string{"/dev/d/a c 1:3 rw", "/dev/d/sub/b c 1:5 rw"}},
		"same path": {&runtimeapi.Device{HostPath: "/dev/zero"}, []string{"/dev/zero c 1:5 rwm"}},
	} {
		got, err := ResolveDevices([]*runtimeapi.Device{c.d})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text := deviceTexts(got); !slices.Equal(text, c.want) {
			t.Errorf("%s: got %q, want %q", name, text, c.want)
		}
	}
	for name, d := range map[string]*runtimeapi.Device{
		"missing":     {HostPath: dir + "/none", ContainerPath: "/dev/x"},
		"file":        {HostPath: dir + "/file", ContainerPath: "/dev/x"},
		"permissions": {HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rx"},
		"repeated":    {HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rrrr"},
		"relative":    {HostPath: "null", ContainerPath: "/dev/x"},
		"relative in": {HostPath: "/dev/null", ContainerPath: "x"},
	} {
		if got, err := ResolveDevices([]*runtimeapi.Device{d}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func deviceTexts(list []Device) []string {
	var out []string
	for _, d := range list {
		out = append(out, fmt.Sprintf("%s %s %d:%d %s", d.Path, d.Type, d.Major, d.Minor, d.Access))
	}
	return out
}

func TestHostDevices(t *testing.T) {
	list, err := HostDevices()
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, d := range list {
		paths[d.Path] = true
	}
	if !paths["/dev/null"] || paths["/dev/pts/0"] || paths["/dev/console"] {
		t.Errorf("got %v", paths)
	}
}

func TestCDI(t *testing.T) {
	dir := t.TempDir()
	file := `{"cdiVersion":"0.6.0","kind":"example.org/gpu","devices":[
		{"name":"one","containerEdits":{"env":["GPU=one"],"deviceNodes":[{"path":"/dev/gpu1","hostPath":"/dev/null"}]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "gpu.json"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	config := &runtimeapi.ContainerConfig{
		CDIDevices:  []*runtimeapi.CDIDevice{{Name: "example.org/gpu=one"}},
		Annotations: map[string]string{"cdi.k8s.io/plugin": "example.org/gpu=one", "other": "x"},
	}
	names, err := CDINames(config)
	if err != nil || len(names) != 1 {
		t.Fatalf("names %q, %v", names, err)
	}
	spec := specOf(t, nil)
	if err := InjectCDI(spec, names, []string{dir}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(spec.Process.Env, "GPU=one") || len(spec.Linux.Devices) != 1 || len(spec.Linux.Resources.Devices) != 2 {
		t.Errorf("not injected: %v %v", spec.Process.Env, spec.Linux.Devices)
	}
	if err := InjectCDI(spec, []string{"example.org/gpu=two"}, []string{dir}); !errors.Is(err, ErrInvalid) {
		t.Errorf("unknown device: %v", err)
	}
	if err := InjectCDI(spec, nil, nil); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"broken.json": `{"cdiVersion":`,
		"nic.json": `{"cdiVersion":"0.6.0","kind":"example.org/nic","devices":[
			{"name":"gone","containerEdits":{"deviceNodes":[{"path":"/dev/no-such-nic"}]}}]}`,
		"other.json": `{"cdiVersion":"0.6.0","kind":"example.org/nic","devices":[{"name":"fine","containerEdits":{"env":["A=b"]}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]string{
		"example.org/gpu=two":  {`"example.org/gpu=two"`, "broken.json", dir},
		"example.org/nic=gone": {`"example.org/nic=gone"`, filepath.Join(dir, "nic.json"), "/dev/no-such-nic"},
	} {
		err := InjectCDI(specOf(t, nil), []string{"example.org/nic=fine", name}, []string{dir})
		for _, w := range want {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", name, err, w)
			}
		}
	}
	if _, err := CDINames(&runtimeapi.ContainerConfig{Annotations: map[string]string{"cdi.k8s.io/x": "rubbish"}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("rubbish annotation: %v", err)
	}
}

// A tenant's device is a node below /dev, to which a link may lead; a directory of devices,
// a node elsewhere or a file is none.
func TestResolveNode(t *testing.T) {
	dir := t.TempDir()
	for link, target := range map[string]string{"zero": "/dev/zero", "passwd": "/etc/passwd", "dev": "/dev", "proc": "/proc/self/fd"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for host, works := range map[string]bool{
		"/dev/zero": true, filepath.Join(dir, "zero"): true,
		filepath.Join(dir, "passwd"): false, filepath.Join(dir, "dev"): false, filepath.Join(dir, "proc"): false,
		"/dev": false, "/dev/pts": false, dir: false, "/dev/none": false, "/etc/passwd": false,
	} {
		found, err := ResolveNode(&runtimeapi.Device{HostPath: host, ContainerPath: "/dev/own", Permissions: "r"})
		if works && (err != nil || len(found) != 1 || found[0].Source != "/dev/zero" || found[0].Path != "/dev/own" || found[0].Minor != 5 || found[0].Access != "r") {
			t.Errorf("%s: %+v, %v, want /dev/zero", host, found, err)
		}
		if !works && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v, want ErrInvalid", host, found, err)
		}
	}
	node := filepath.Join(dir, "node")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
		t.Skipf("mknod: %v", err)
	}
	if found, err := ResolveNode(&runtimeapi.Device{HostPath: node}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a node that is not below /dev: %+v, %v", found, err)
	}
}
