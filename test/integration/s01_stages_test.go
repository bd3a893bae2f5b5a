package integration

import (
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

// TestS01Stages is the start of a container from an image that is not there yet,
// told stage by stage: the pull in the daemon's log, the creation by explain. A
// second start fetches nothing. TestPullFetchesOnce is about pulls at once.
func TestS01Stages(t *testing.T) {
	const ref = "docker.io/test/stages:v1"
	img, err := registry.Busybox() // it can be run; the layer above makes it new
	if err == nil {
		img, err = registry.Extend(img, nil, registry.File{Path: "/stages", Mode: 0o644, Data: []byte(t.Name())})
	}
	if err == nil {
		err = images.Push(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.removeImage(t, ref) })
	before := logSize(t)
	c := startFrom(t, ref)
	pulled := lineWith(t, before, "Image pulled")
	for _, stage := range []string{"resolveTook=", "layerTook=", "commitTook=", "bytes="} {
		if !strings.Contains(pulled, stage) {
			t.Errorf("the log has no %s in %q", stage, pulled)
		}
	}
	why := shared.berth(t, "explain", c.ID)
	for _, stage := range []string{"rootfs ", "spec ", "create ", "start came"} {
		if !strings.Contains(why, stage) {
			t.Errorf("explain has no %q in\n%s", stage, why)
		}
	}
	blobs := images.Blobs()
	startFrom(t, ref)
	if n := images.Blobs() - blobs; n != 0 {
		t.Errorf("the second start fetched %d blobs", n)
	}
}

func startFrom(t *testing.T, ref string) *ctr {
	t.Helper()
	return shared.pod(t).start("idle", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref })
}

func logSize(t *testing.T) int64 {
	t.Helper()
	st, err := os.Stat(shared.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// lineWith is the first line of the daemon's log after an offset that has a text.
func lineWith(t *testing.T, after int64, text string) string {
	t.Helper()
	data, err := os.ReadFile(shared.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data[after:])) {
		if strings.Contains(line, text) {
			return line
		}
	}
	t.Fatalf("no %q in the daemon's log", text)
	return ""
}
