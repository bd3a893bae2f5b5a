package sandbox

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/atomicfile"
	"berth/sandbox/record"
)

func TestPodRecordKeepsTheConfig(t *testing.T) {
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:    &runtimeapi.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c", Attempt: 3},
		Annotations: map[string]string{"k": "line\nwith \"quotes\" and \u2028"},
		Linux:       &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{"net.core.somaxconn": "1"}},
	}
	enc, err := encodeConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rec := podRecord{Pod: record.Pod{Version: record.Version, ID: newID(), Intent: record.Ready, Config: enc, CreatedAt: time.Now().UTC()}}
	b, err := json.Marshal(&rec)
	if err != nil {
		t.Fatal(err)
	}
	var back podRecord
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if err := back.decode(); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(back.config, cfg) || !back.CreatedAt.Equal(rec.CreatedAt) {
		t.Errorf("read back %v, wrote %v", back.config, cfg)
	}
}

func TestContainerRecordKeepsBinaryEnv(t *testing.T) {
	cfg := &runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: "K", Value: []byte{0xff, 0x00, 'a'}}}}
	enc, err := encodeConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rec := containerRecord{Container: record.Container{Version: record.Version, Config: enc}}
	if err := rec.decode(); err != nil || !proto.Equal(rec.config, cfg) {
		t.Errorf("read back %v (%v), wrote %v", rec.config, err, cfg)
	}
}

func TestNewerRecordIsRefused(t *testing.T) {
	rec := podRecord{Pod: record.Pod{Version: record.Version + 1, Config: json.RawMessage("{}")}}
	if err := rec.decode(); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("decode = %v, want a refusal that says newer", err)
	}
}

func TestUnknownFieldOfARecordIsIgnored(t *testing.T) {
	rec := podRecord{Pod: record.Pod{Version: record.Version, Config: json.RawMessage(`{"hostname":"h","fieldOfTheFuture":1}`)}}
	if err := rec.decode(); err != nil || rec.config.GetHostname() != "h" {
		t.Errorf("decode = %v, hostname %q", err, rec.config.GetHostname())
	}
}

// Two writers that change different fields of one record at the same time both find
// their field in memory and in the file.
func TestConcurrentChangesLoseNoField(t *testing.T) {
	file := filepath.Join(t.TempDir(), record.ContainerFile)
	c := newContainer(&Sandbox{id: newID()}, file, containerRecord{
		Container: record.Container{Version: record.Version, ID: newID(), Intent: record.Ready}, config: &runtimeapi.ContainerConfig{},
	})
	lost := time.Now().UTC()
	var wait sync.WaitGroup
	wait.Go(func() {
		for i := range 50 {
			if err := c.change(written, func(rec *containerRecord) { rec.Unenforced = append(rec.Unenforced, strconv.Itoa(i)) }); err != nil {
				t.Error(err)
			}
		}
	})
	wait.Go(func() {
		if err := c.change(written, func(rec *containerRecord) { rec.LostAt = lost }); err != nil {
			t.Error(err)
		}
	})
	wait.Wait()
	var onDisk record.Container
	if err := atomicfile.Read(file, &onDisk); err != nil {
		t.Fatal(err)
	}
	for where, rec := range map[string]record.Container{"in memory": c.rec.get().Container, "on disk": onDisk} {
		if !rec.LostAt.Equal(lost) || len(rec.Unenforced) != 50 {
			t.Errorf("%s: lost at %v, %d limits; want %v and 50", where, rec.LostAt, len(rec.Unenforced), lost)
		}
	}
}

// A file that can't be written leaves the record as it was, unless the change has to be
// made all the same.
func TestAChangeThatCantBeWritten(t *testing.T) {
	s := newSandbox("/nonexistent/pod.json", podRecord{Pod: record.Pod{ID: newID(), Intent: record.Ready}, config: &runtimeapi.PodSandboxConfig{}})
	for how, want := range map[persistence]record.Intent{durably: record.Ready, written: record.Ready, ifPossible: record.Stopping} {
		s.rec.value.Store(&podRecord{Pod: record.Pod{Intent: record.Ready}, config: &runtimeapi.PodSandboxConfig{}})
		err := s.change(how, func(rec *podRecord) { rec.Intent = record.Stopping })
		if !errors.Is(err, fs.ErrNotExist) || s.rec.get().Intent != want {
			t.Errorf("persistence %d: intent %s, %v; want %s and an error", how, s.rec.get().Intent, err, want)
		}
	}
}

// FuzzRecord: whatever stands in a record, reading it ends with a pod or an error.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"config":{}}`))
	f.Add([]byte(`{"version":1,"config":null}`))
	f.Add([]byte(`{"config":{"linux":{"sysctls":{"a":1}}}}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var p podRecord
		if json.Unmarshal(b, &p) == nil {
			_ = p.decode()
		}
		var c containerRecord
		if json.Unmarshal(b, &c) == nil {
			_ = c.decode()
		}
	})
}
