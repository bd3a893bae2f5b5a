package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"berth/test/node"
)

// configured is a node with a configuration file that a test may change.
type configured struct {
	*suite
	t    *testing.T
	file string
}

func withFile(t *testing.T) configured {
	t.Helper()
	c := configured{t: t, file: filepath.Join(t.TempDir(), "config.toml")}
	if err := os.WriteFile(c.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.suite = own(t, node.Options{Args: []string{"--config", c.file}})
	return c
}

// reload writes the file and has the daemon read it. It returns what the daemon logged
// of it.
func (c configured) reload(text string, args ...any) string {
	c.t.Helper()
	if err := os.WriteFile(c.file, fmt.Appendf(nil, text, args...), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := c.Reload(); err != nil {
		c.t.Fatal(err)
	}
	return c.Tail(1)
}

// SIGHUP changes what may change while pods run, and says which keys need a restart.
func TestReload(t *testing.T) {
	c := withFile(t)
	p := c.pod(t)
	idle := p.idle("idle")
	pid := idle.hostPID()
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	policy := filepath.Join(t.TempDir(), "trust.toml")
	if err := os.WriteFile(policy, []byte("[[rule]]\nmatch = \"registry.k8s.io/*\"\nreject = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := c.reload("pinned_images = [%q]\ntrust_policy = %q\nmetrics_address = \"unix://%s\"\npods_per_shim = 1\n", busybox, policy, socket)
	if !strings.Contains(log, `needRestart=["pods_per_shim"]`) {
		t.Errorf("the log of the reload does not say that pods_per_shim needs a restart: %s", log)
	}
	if st := c.imageStatus(t, busybox); !st.GetPinned() {
		t.Errorf("the image %s is not pinned after pinned_images named it", busybox)
	}
	_, err := c.Pull(within(t), nginx)
	wantCode(t, "pull of an image that the new trust policy rejects", err, codes.Unknown)
	scrape(t, socket).expect(t, "after metrics_address was set", map[string]float64{"berth_pods{ready}": 1, "berth_containers{running}": 1})

	c.reload("pinned_images = []\n")
	if st := c.imageStatus(t, busybox); st.GetPinned() {
		t.Errorf("the image %s is still pinned after pinned_images was emptied", busybox)
	}
	if _, err := c.Pull(within(t), nginx); err != nil {
		t.Errorf("pull without a trust policy: %v", err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket of the metrics is still there (%v), want it removed", err)
	}
	log = c.reload("timeouts = [\"drain=3s\"]\n")
	if !strings.Contains(log, `changed=["timeouts"] needRestart=null`) {
		t.Errorf("the log of a reload with another drain is %s", log)
	}
	if log = c.reload("timeouts = [\"drain=3s\", \"cni-add=1m\"]\n"); !strings.Contains(log, `changed=null needRestart=["timeouts"]`) {
		t.Errorf("the log of a reload with another cni-add is %s", log)
	}
	if now := idle.hostPID(); now != pid {
		t.Errorf("the container's process changed from %d to %d", pid, now)
	}
}

// A configuration that can't work changes nothing, and the daemon lives on.
func TestBadReload(t *testing.T) {
	c := withFile(t)
	c.pull(t, busybox)
	c.reload("pinned_images = [%q]\n", busybox)
	for _, bad := range []struct{ text, want string }{
		{"pinned_images = []\nlog_levl = 3\n", "log_levl: unknown key"},
		{"pinned_images = []\ntrust_policy = \"/nonexistent/trust.toml\"\n", "trust_policy: "},
		{"pinned_images = []\nmetrics_address = \"unix:///proc/none/metrics.sock\"\n", "metrics_address: "},
		{"pinned_images = [\n", "config.toml:"},
	} {
		if log := c.reload("%s", bad.text); !strings.Contains(log, bad.want) || !strings.Contains(log, "nothing was changed") {
			t.Errorf("the log of a reload of %q lacks %q or that nothing was changed: %s", bad.text, bad.want, log)
		}
		if st := c.imageStatus(t, busybox); !st.GetPinned() {
			t.Errorf("a reload of %q was refused and yet changed pinned_images", bad.text)
		}
	}
}

// Any user can take a port of the loopback. That keeps the metrics away, but neither the
// daemon from starting nor a reload of other keys from being applied.
func TestAttackMetricsPort(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := withFile(t)
	c.pull(t, busybox)
	address := fmt.Sprintf("metrics_address = %q\n", taken.Addr())
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.file, []byte(address), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatalf("with a taken metrics_address the daemon does not start: %v", err)
	}
	c.resubscribe(t)
	c.reload("%spinned_images = [%q]\n", address, busybox)
	if st := c.imageStatus(t, busybox); !st.GetPinned() {
		t.Error("a taken metrics_address kept a reload from changing pinned_images")
	}
}
