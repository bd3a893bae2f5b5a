package nri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// launched is the plugin that this program is when the daemon starts it. It writes what it
// is told into the file that its configuration names.
type launched struct {
	*plugin
	file string
}

func (l *launched) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	l.file = strings.TrimSpace(config)
	return 0, nil
}

func (l *launched) write(step, _ string) error {
	f, err := os.OpenFile(l.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, step)
	return err
}

// serveLaunched is the main of the plugin.
func serveLaunched() int {
	l := &launched{plugin: newPlugin("", nil)}
	l.before = l.write
	s, err := stub.New(l, stub.WithLogger(silent{}))
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		return 1
	}
	return 0
}

// A program in the plugin directory is started with its configuration, knows of all that
// happens, and ends with the daemon; one that can't be started keeps nobody from anything.
func TestLaunchedPlugin(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "told")
	for name, data := range map[string][]byte{
		"plugins/15-launched": program, "plugins/16-broken": []byte("#!/no/such/interpreter\n"), "conf/15-launched.conf": []byte(file + "\n"),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := own(t, "--nri-plugin-dir", filepath.Join(dir, "plugins"), "--nri-plugin-config-dir", filepath.Join(dir, "conf"))
	lifeOf(t, r, "served")
	wantLog(t, r, "broken", "no such file")
	told, err := os.ReadFile(file)
	want := []string{
		"Synchronize", "RunPodSandbox", "CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer",
		"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
	}
	if got := strings.Fields(string(told)); err != nil || !slices.Equal(got, want) {
		t.Errorf("it was told %q, %v", got, err)
	}
}
