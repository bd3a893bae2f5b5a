package sandbox

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod may have more shared memory than the node gives, but only within its memory limit:
// else it could fill the machine's memory with what no OOM kill frees.
func TestAttackShmSize(t *testing.T) {
	const node, mi = 64 << 20, 1 << 20
	for _, tc := range []struct {
		asked string
		limit int64
		want  int64 // -1: refused
	}{
		{"1Mi", 0, mi}, {"64Mi", 0, node}, {"65536Ki", 0, node}, {"4096", 0, 4096},
		{"65Mi", 0, -1}, {"1Gi", 0, -1}, {"65Mi", 64 * mi, -1}, {"128Mi", 128 * mi, 128 * mi}, {"128Mi", 1 << 40, 128 * mi},
		{"4095", 1 << 40, -1}, {"0", 0, -1}, {"", 0, -1}, {"-1", 0, -1}, {"1.5Gi", 1 << 40, -1}, {"999999999Gi", 1 << 40, -1},
		{"9999999999Gi", 1 << 62, -1}, {"50%", 1 << 40, -1}, {"64Mi,mode=777", 0, -1}, {" 1Mi", 0, -1},
	} {
		cfg := &runtimeapi.PodSandboxConfig{Annotations: map[string]string{ShmAnnotation: tc.asked}}
		if tc.limit != 0 {
			cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: tc.limit}}
		}
		got, err := shmSize(cfg, node)
		if err != nil {
			got = -1
		}
		if got != tc.want {
			t.Errorf("%q with a limit of %d is %d (%v), want %d", tc.asked, tc.limit, got, err, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), "annotation berth/shm-size") {
			t.Errorf("the error %q does not name the annotation", err)
		}
	}
	if got, err := shmSize(&runtimeapi.PodSandboxConfig{}, 128*mi); got != 128*mi || err != nil {
		t.Errorf("a pod that asks for nothing gets %d, %v", got, err)
	}
	if got, err := shmSize(&runtimeapi.PodSandboxConfig{}, 0); got != node || err != nil {
		t.Errorf("without a setting a pod gets %d, %v", got, err)
	}
}
