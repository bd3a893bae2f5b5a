package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
	"berth/test/client"
	"berth/test/node"
)

// extraDevice is a device of this machine that no container has by itself.
func extraDevice(t *testing.T) string {
	t.Helper()
	candidates := []string{"/dev/fuse", "/dev/loop-control", "/dev/kmsg"}
	for _, p := range candidates {
		if f, err := os.Open(p); err == nil {
			f.Close()
			return p
		}
	}
	t.Skipf("none of %q can be opened on this machine", candidates)
	return ""
}

func asksFor(key, devices string) func(*runtimeapi.PodSandboxConfig) {
	return func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{key: devices} }
}

// A pod gets the devices that it asks for by annotation when the operator lists them, with
// the access that it asks for, and is refused otherwise.
func TestAllowedDevices(t *testing.T) {
	device := extraDevice(t)
	s := own(t, node.Options{Args: []string{"--allowed-devices", device}})
	c := s.pod(t, asksFor(sandbox.DevicesAnnotation, device+":/dev/own/a:r")).idle("c")
	want := c.Sh("stat -c %t:%T /dev/null") // of the same format
	if got := c.Sh("test -c /dev/own/a && stat -c %t:%T /dev/own/a"); got == want || !strings.Contains(got, ":") {
		t.Errorf("the container's device is %q", got)
	}
	for script, want := range map[string]string{
		"exec 3</dev/own/a && echo open":                      "open\n",
		"(exec 3>/dev/own/a) 2>&1 | grep -c 'not permitted'":  "1\n", // the cgroup's EPERM
		"(exec 3<>/dev/own/a) 2>&1 | grep -c 'not permitted'": "1\n",
	} {
		if got := c.Sh(script + "; true"); got != want {
			t.Errorf("%s says %q, want %q", script, got, want)
		}
	}
	whole := s.pod(t, asksFor("io.kubernetes.cri-o.Devices", device)).idle("c")
	if got := whole.Sh("exec 3<" + device + " && echo open"); got != "open\n" {
		t.Errorf("by CRI-O's annotation: %q", got)
	}
	mapped := s.pod(t, withUsers(400000), asksFor(sandbox.DevicesAnnotation, device+":/dev/own/b:r"))
	m := mapped.idle("c", sameNamespaces(mapped.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()))
	if got := m.Sh("test -c /dev/own/b && echo there"); got != "there\n" {
		t.Errorf("in a user namespace: %q", got)
	}
	plain := s.pod(t).idle("c")
	if got := plain.Sh("test -e " + device + " || echo none"); got != "none\n" {
		t.Errorf("a pod that does not ask has it too: %q", got)
	}
	for _, key := range []string{sandbox.DevicesAnnotation, "io.kubernetes.cri-o.Devices"} {
		config := s.podConfig(t)
		asksFor(key, device+",/dev/mem")(config)
		_, err := s.RunPod(within(t), config)
		wantCode(t, "a pod that asks for /dev/mem", err, codes.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), `"/dev/mem", which allowed_devices`) {
			t.Errorf("the error %v does not name the device and the key", err)
		}
	}
}

// TestAttackDevicePathInAVolume: a tenant asks for an allowed device at a path that leads, by a
// link in its volume, to where no node can be made. libcontainer would bind the file that the
// host has at that path.
func TestAttackDevicePathInAVolume(t *testing.T) {
	device := extraDevice(t)
	s := own(t, node.Options{Args: []string{"--allowed-devices", device}})
	host, err := os.MkdirTemp("/dev", "berth-attack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(host) })
	secret := filepath.Join(host, "sub", "secret")
	v := t.TempDir()
	err = errors.Join(os.Mkdir(filepath.Dir(secret), 0o700), os.WriteFile(secret, []byte("of the host"), 0o600), os.Symlink("/dev/mqueue", filepath.Join(v, "sub")))
	if err != nil {
		t.Fatal(err)
	}
	p := s.pod(t, asksFor(sandbox.DevicesAnnotation, device+":"+secret+":r"))
	c := p.Start(client.Shell("c", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: v, ContainerPath: host})
	}))
	if got := c.Sh("test -c " + secret + " && echo device || cat " + secret); got != "device\n" {
		t.Errorf("at %s the container has %q", secret, got)
	}
}
