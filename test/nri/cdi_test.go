package nri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// writeCDI writes a CDI file whose devices set a variable, mount dir and make a node.
func writeCDI(t *testing.T, dir, value string) {
	t.Helper()
	text := `{"cdiVersion":"0.6.0","kind":"example.org/thing","devices":[
		{"name":"one","containerEdits":{"env":["ONE=VALUE"],"deviceNodes":[{"path":"/dev/one","hostPath":"/dev/null"}]}},
		{"name":"two","containerEdits":{"env":["TWO=VALUE"],"mounts":[{"hostPath":"DIR","containerPath":"/two","options":["rbind","ro"]}]}},
		{"name":"three","containerEdits":{"env":["THREE=VALUE"],
			"hooks":[{"hookName":"createContainer","path":"/bin/sh","args":["sh","-c","cat > DIR/state"]}]}}]}`
	text = strings.NewReplacer("VALUE", value, "DIR", dir).Replace(text)
	if err := os.WriteFile(filepath.Join(dir, "thing.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Devices of CDI are asked for by the field of the CRI, by annotation and by a plugin, all
// in one container. A file that changes counts for the next container.
func TestCDI(t *testing.T) {
	dir := t.TempDir()
	r := own(t, "--cdi-spec-dirs", dir)
	p := connect(t, r.socket, "20-cdi", func(p *plugin) {
		p.adjust = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			a := &api.ContainerAdjustment{}
			a.AddCDIDevice(&api.CDIDevice{Name: "example.org/thing=three"})
			return a, nil, nil
		}
	})
	pod := r.pod(t, "cdi")
	for _, value := range []string{"first", "second"} {
		writeCDI(t, dir, value)
		c := pod.Start(client.Shell(value, "exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
			c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "example.org/thing=one"}}
			c.Annotations = map[string]string{"cdi.k8s.io/old-plugin": "example.org/thing=two"}
		}))
		want := value + "," + value + "," + value + " 1,3 thing.json"
		if got := strings.Join(strings.Fields(c.Sh(`echo "$ONE,$TWO,$THREE"; stat -c %t,%T /dev/one; ls /two | grep json; echo x > /dev/one`)), " "); got != want {
			t.Errorf("in the container: %q, want %q", got, want)
		}
		if state, err := os.ReadFile(filepath.Join(dir, "state")); err != nil || !strings.Contains(string(state), c.ID) {
			t.Errorf("the hook of the device read %q, %v", state, err)
		}
		if seen := p.seen(c.ID).GetCDIDevices(); len(seen) != 1 || seen[0].GetName() != "example.org/thing=one" {
			t.Errorf("the plugin was told of %v", seen)
		}
	}
	_, err := pod.TryCreate(client.Shell("none", "exit 0", func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "example.org/thing=none"}}
	}))
	if err == nil || !strings.Contains(err.Error(), `"example.org/thing=none"`) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a device that is nowhere: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thing.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = pod.TryCreate(client.Shell("broken", "exit 0")); err == nil || !strings.Contains(err.Error(), "example.org/thing=three") || !strings.Contains(err.Error(), "thing.json") {
		t.Errorf("a plugin's device in a broken file: %v", err)
	}
}
