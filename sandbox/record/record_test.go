package record

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The records of testdata are as an earlier daemon wrote them: they must be read whole,
// and what is written must be read by that daemon, so a name in them never changes.
func TestFormsDoNotChange(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	pod := Pod{
		Version: 1, ID: "p", Intent: Ready, Config: json.RawMessage(`{"metadata":{"name":"a"}}`), Handler: "h",
		Runtime: &Runtime{
			Shim: "/shim", Options: map[string]any{"BinaryName": "/runc"}, SocketDir: "/s", ShimCgroup: "/berth-p/shim", Annotations: []string{"a.*"},
			NoHostDevices: true, AllDevicesAllowed: true, Devices: []string{"/dev/kvm"}, AllowedDevices: []string{"/dev/fuse"},
			NoContainer: true, Image: "registry.test/pause:1",
		}, CreatedAt: at,
		BootID: "b", ShimID: "s", Network: &Network{IPs: []string{"10.0.0.1"}, Raw: json.RawMessage(`{"x":1}`)},
		MadeCgroup: "/berth-p", SELinuxLevel: "s0:c1,c2", SandboxLayers: []string{"l"}, PausePID: 7, PauseStart: 8,
	}
	container := Container{
		Version: 1, ID: "c", PodID: "p", Intent: Removing, Config: json.RawMessage(`{"metadata":{"name":"c"}}`), ImageID: "sha256:1",
		ImageRef: "registry.test/a@sha256:2", Layers: []string{"l"}, Volumes: []Volume{{Target: "/t", Layers: []string{"m"}, ImageID: "sha256:3"}},
		LogPath: "/log", StopSignal: 15, CreatedAt: at, BootID: "b", LostAt: at, StopTold: true, Spec: json.RawMessage(`{"ociVersion":"1.2.0"}`),
		Unenforced: []string{"u"}, UpdateAnnotations: map[string]string{"k": "v"}, Took: []StageTime{{Stage: "rootfs", Micros: 9}},
	}
	golden(t, "pod.json", pod, &Pod{})
	golden(t, "container.json", container, &Container{})
}

func golden(t *testing.T, name string, value, into any) {
	t.Helper()
	for i, v := 0, reflect.ValueOf(value); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("%s: field %s is not part of the test", name, v.Type().Field(i).Name)
		}
	}
	want, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("%s is written as\n%s\nwant\n%s", name, got, want)
	}
	if err := json.Unmarshal(want, into); err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(into, "", "  ")
	if err != nil || string(again) != string(got) {
		t.Errorf("%s is read as\n%s, %v", name, again, err)
	}
}

func TestNewerRecordsAreRefused(t *testing.T) {
	if err := CheckVersion(Version); err != nil {
		t.Error(err)
	}
	if err := CheckVersion(0); err != nil {
		t.Errorf("a record of the first daemons: %v", err)
	}
	if err := CheckVersion(Version + 1); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer record: %v", err)
	}
}

func TestCutShort(t *testing.T) {
	for i, want := range map[Intent]bool{Making: true, Removing: true, Ready: false, Stopping: false, Stopped: false, "": false} {
		if i.CutShort() != want {
			t.Errorf("%q: cut short %t, want %t", i, i.CutShort(), want)
		}
	}
}

func TestHeldAreAllLayers(t *testing.T) {
	c := Container{Layers: []string{"a", "b"}, Volumes: []Volume{{Layers: []string{"c"}}, {Layers: []string{"a"}}}}
	if got := c.Held(); !reflect.DeepEqual(got, []string{"a", "b", "c", "a"}) {
		t.Errorf("held %v", got)
	}
}
