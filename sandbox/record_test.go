package sandbox

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	rec := podRecord{Version: recordVersion, ID: newID(), Intent: intentReady, Config: enc, CreatedAt: time.Now().UTC()}
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
	rec := containerRecord{Version: recordVersion, Config: enc}
	if err := rec.decode(); err != nil || !proto.Equal(rec.config, cfg) {
		t.Errorf("read back %v (%v), wrote %v", rec.config, err, cfg)
	}
}

func TestNewerRecordIsRefused(t *testing.T) {
	rec := podRecord{Version: recordVersion + 1, Config: configJSON("{}")}
	if err := rec.decode(); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("decode = %v, want a refusal that says newer", err)
	}
}

func TestUnknownFieldOfARecordIsIgnored(t *testing.T) {
	rec := podRecord{Version: recordVersion, Config: configJSON(`{"hostname":"h","fieldOfTheFuture":1}`)}
	if err := rec.decode(); err != nil || rec.config.GetHostname() != "h" {
		t.Errorf("decode = %v, hostname %q", err, rec.config.GetHostname())
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
