package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// An archive of the same programs has the same bytes, its sums are right, and the list of
// modules has those of all programs.
func TestRelease(t *testing.T) {
	for _, p := range []string{"berthd", "berth", "berth-shim", "berth-shim-v2"} {
		if _, err := os.Stat("../../bin/" + p); err != nil {
			t.Skip("no bin/" + p + ": run make build first")
		}
	}
	const version = "0.0.0-test"
	dist := "../../bin/dist/"
	base := dist + "berth_" + version + "_linux_" + runtime.GOARCH
	sums := "SHA256SUMS_" + version + "_linux_" + runtime.GOARCH
	t.Cleanup(func() {
		for _, f := range []string{base + ".tar.gz", base + ".spdx.json", dist + sums} {
			os.Remove(f)
		}
	})
	release := func() (archive, list string) {
		output(t, "../../hack/release.sh", version)
		return read(t, ".", base+".tar.gz"), read(t, ".", base+".spdx.json")
	}
	archive, list := release()
	if again, same := release(); again != archive || same != list {
		t.Error("a second archive of the same programs has other bytes")
	}
	c := exec.Command("sha256sum", "--check", sums)
	c.Dir = dist
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	names := output(t, "tar", "-tzf", base+".tar.gz")
	for _, want := range []string{"bin/berthd", "bin/berth-shim", "bin/berth-shim-v2", "bin/berth", "lib/systemd/system/berthd.service", "share/manual/berthd.8"} {
		if !strings.Contains(names, "berth-"+version+"/"+want+"\n") {
			t.Errorf("the archive lacks %s:\n%s", want, names)
		}
	}
	var sbom struct {
		Packages []struct{ Name, VersionInfo string }
	}
	if err := json.Unmarshal([]byte(list), &sbom); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, p := range sbom.Packages {
		have[p.Name] = p.VersionInfo != ""
	}
	for _, want := range []string{"berthd", "berth", "berth-shim", "stdlib", "github.com/opencontainers/runc", "google.golang.org/grpc", "github.com/google/go-containerregistry"} {
		if !have[want] {
			t.Errorf("the list of modules lacks %s, or its version", want)
		}
	}
}
