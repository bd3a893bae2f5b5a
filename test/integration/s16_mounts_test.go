package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// S16: propagation and options of mounts, by the containers' mount tables. That
// a read-only mount takes no write is in [TestMounts], refusals of mounts that
// make no sense in themselves are in [TestBadContainers].
func TestS16Mounts(t *testing.T) {
	t.Run("propagation", s16Propagation)
	t.Run("read-only", s16ReadOnly)
	t.Run("options", s16Options)
	t.Run("conflicts", s16Conflicts)
	t.Run("two at one path", s16Twice)
	t.Run("missing", s16Missing)
}

// tmpfs mounts one of the test's own; it goes with the test.
func tmpfs(t *testing.T, at string) {
	t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("berth-test", at, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// peers makes the mount at a directory pass on what is mounted below it.
func peers(t *testing.T, at string) {
	t.Helper()
	if err := unix.Mount("", at, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

// atVolume is the part of a container that S16 tests.
func atVolume(m *runtimeapi.Mount, capabilities ...string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		m.ContainerPath = "/volume"
		c.Mounts = append(c.Mounts, m)
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
			Capabilities: &runtimeapi.Capability{AddCapabilities: capabilities},
		}
		if len(capabilities) > 0 {
			c.Linux.SecurityContext.Apparmor = mayMount
		}
	}
}

// s16Propagation: mounts made after the start, on the host and in a container.
func s16Propagation(t *testing.T) {
	host := volume(t)
	tmpfs(t, host)
	peers(t, host)
	p := shared.pod(t)
	modes := map[string]runtimeapi.MountPropagation{
		"private": runtimeapi.MountPropagation_PROPAGATION_PRIVATE,
		"slave":   runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		"shared":  runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL,
	}
	made := map[string]*ctr{}
	for name, mode := range modes {
		made[name] = p.idle(name, atVolume(&runtimeapi.Mount{HostPath: host, Propagation: mode}, "SYS_ADMIN"))
	}
	for name, want := range map[string]string{"private": "", "slave": "master:", "shared": "shared:"} {
		got := mountOptions(t, made[name].hostPID(), "/volume")
		if strings.Contains(got, "shared:") != (want == "shared:") || strings.Contains(got, "master:") != (want == "master:") {
			t.Errorf("%s: the mount is %q, want %q", name, got, want)
		}
	}
	tmpfs(t, filepath.Join(host, "of-host"))
	for name, c := range made {
		if err := os.Mkdir(filepath.Join(host, "of-"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		c.Sh("mount -t tmpfs mine /volume/of-" + name)
	}
	// What was mounted by whom is seen where.
	where := map[string]map[string]bool{
		"of-host":    {"host": true, "private": false, "slave": true, "shared": true},
		"of-private": {"host": false, "private": true, "slave": false, "shared": false},
		"of-slave":   {"host": false, "private": false, "slave": true, "shared": false},
		"of-shared":  {"host": true, "private": false, "slave": true, "shared": true},
	}
	for mount, sides := range where {
		for side, want := range sides {
			pid, at := os.Getpid(), filepath.Join(host, mount)
			if c := made[side]; c != nil {
				pid, at = c.hostPID(), "/volume/"+mount
			}
			if got := mountOptions(t, pid, at) != ""; got != want {
				t.Errorf("the mount %s is seen by %s: %v, want %v", mount, side, got, want)
			}
		}
	}
	made["shared"].Sh("umount /volume/of-shared")
	if got := mountOptions(t, os.Getpid(), filepath.Join(host, "of-shared")); got != "" {
		t.Errorf("unmounted in the container, on the host still %q", got)
	}
}

// s16ReadOnly: of a read-only mount a mount below it stays writable, of a
// recursively read-only one it does not.
func s16ReadOnly(t *testing.T) {
	host := volume(t)
	tmpfs(t, filepath.Join(host, "below"))
	p := shared.pod(t)
	ro := p.idle("ro", atVolume(&runtimeapi.Mount{HostPath: host, Readonly: true}))
	write := "for d in /volume /volume/below; do touch $d/x 2>/dev/null && echo yes || echo no; done"
	if got := ro.Sh(write); got != "no\nyes\n" {
		t.Errorf("writes to a read-only mount and one below: %q", got)
	}
	id, err := p.create(client.Shell("rro", sleeper, atVolume(&runtimeapi.Mount{HostPath: host, Readonly: true, RecursiveReadOnly: true})))
	if err != nil && strings.Contains(err.Error(), "needs Linux 5.12") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	rro := p.ctr(id)
	if err := rro.TryStart(); err != nil {
		t.Fatal(err)
	}
	if got := rro.Sh(write); got != "no\nno\n" {
		t.Errorf("writes to a recursively read-only mount and one below: %q", got)
	}
	for _, at := range []string{"/volume", "/volume/below"} {
		if got := mountOptions(t, rro.hostPID(), at); !strings.HasPrefix(got, "ro,") {
			t.Errorf("%s is %q", at, got)
		}
	}
	if got := mountOptions(t, os.Getpid(), filepath.Join(host, "below")); strings.HasPrefix(got, "ro,") {
		t.Errorf("the host's own mount became %q", got)
	}
	if got := factOf(shared.explain(t, rro.ID), "filesystem", "/volume"); !strings.Contains(got, host) || !strings.Contains(got, "ro") {
		t.Errorf("explain says of the volume %q", got)
	}
}

// s16Options: each option does what it says, and only where it is given.
func s16Options(t *testing.T) {
	host := volume(t)
	tmpfs(t, host) // whatever the machine's disks are mounted with
	program, err := os.ReadFile(probeFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"run": 0o755, "setuid": 0o4755} {
		file := filepath.Join(host, name)
		if err := os.WriteFile(file, program, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(host, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(filepath.Join(host, "null"), 0o666); err != nil {
		t.Fatal(err)
	}
	works := map[string]string{
		"noexec": "/volume/run user",
		"nosuid": "[ $(/volume/setuid user) = 0 ]",
		"nodev":  "cat /volume/null",
	}
	p := shared.pod(t)
	for _, options := range [][]string{nil, {"noexec"}, {"nosuid"}, {"nodev"}, {"noexec", "nosuid", "nodev"}} {
		name := "with-" + strings.Join(options, "-")
		c := p.idle(name, atVolume(&runtimeapi.Mount{HostPath: host, MountOptions: options}), func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		})
		got := strings.Split(mountOptions(t, c.hostPID(), "/volume"), " ")[0]
		for option, script := range works {
			given := strings.Contains(name, option)
			if given != strings.Contains(","+got+",", ","+option+",") {
				t.Errorf("%s: the mount is %s", name, got)
			}
			if option != "noexec" && strings.Contains(name, "noexec") {
				continue // nothing of it can be executed
			}
			r, err := c.execSync(5, "sh", "-c", script)
			if err != nil || (r.GetExitCode() != 0) != given {
				t.Errorf("%s: %q ends with %d: %s %v", name, script, r.GetExitCode(), r.GetStderr(), err)
			}
		}
	}
}

// s16Conflicts are refused, and the error says what to do.
func s16Conflicts(t *testing.T) {
	private := volume(t)
	tmpfs(t, private)
	if err := unix.Mount("", private, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	const toContainer = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	p := shared.pod(t)
	for name, c := range map[string]struct {
		m    *runtimeapi.Mount
		says string
	}{
		"rro that gets mounts":    {&runtimeapi.Mount{HostPath: private, Readonly: true, RecursiveReadOnly: true, Propagation: toContainer}, "PRIVATE"},
		"an option that is none":  {&runtimeapi.Mount{HostPath: private, MountOptions: []string{"exec"}}, "noexec, nosuid, nodev"},
		"slave of a private one":  {&runtimeapi.Mount{HostPath: private, Propagation: toContainer}, "mount --make-rshared " + private},
		"shared with a private":   {&runtimeapi.Mount{HostPath: private, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}, "mount --make-rshared " + private},
		"a propagation of no use": {&runtimeapi.Mount{HostPath: private, Propagation: 7}, "propagation 7"},
	} {
		_, err := p.create(client.Shell("c", "true", atVolume(c.m)))
		refused(t, name, err)
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v does not say %q", name, err, c.says)
		}
	}
}

// s16Missing: a host path that is missing becomes a directory, which stays, unless
// the configuration says no. A node of its own is one that says so.
func s16Missing(t *testing.T) {
	missing := filepath.Join(volume(t), "a", "b")
	at := func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", HostPath: missing}}
	}
	t.Run("made", func(t *testing.T) {
		shared.pod(t).start("c", "sleep 1000", at).Sh("echo x >/volume/x")
	})
	for dir := missing; dir != filepath.Dir(filepath.Dir(missing)); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode() != fs.ModeDir|0o755 {
			t.Errorf("%s is %v, %v", dir, info, err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(missing)); err != nil {
		t.Fatal(err)
	}
	strict := own(t, node.Options{NoNetwork: true, Args: []string{"--create-host-paths=false"}})
	p := strict.pod(t, namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}))
	_, err := p.create(client.Shell("c", "true", at, sameNamespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE})))
	refused(t, "a missing host path", err)
	if _, err := os.Stat(filepath.Dir(missing)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused one left %s: %v", filepath.Dir(missing), err)
	}
}

// s16Twice: of two mounts at one path the later one is seen, a file over a directory
// too, which is how a volume meets the kubelet's file of the termination message.
func s16Twice(t *testing.T) {
	dir, other := volume(t), volume(t)
	for d, text := range map[string]string{dir: "first", other: "second"} {
		if err := os.WriteFile(filepath.Join(d, "file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mounts := func(list ...*runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Mounts = list }
	}
	image := &runtimeapi.ImageSpec{Image: busybox}
	p := shared.pod(t)
	for name, c := range map[string]struct {
		mounts       func(*runtimeapi.ContainerConfig)
		script, says string
	}{
		"directories": {mounts(&runtimeapi.Mount{ContainerPath: "/d", HostPath: dir}, &runtimeapi.Mount{ContainerPath: "/d/", HostPath: other}), "cat /d/file", "second"},
		"file": {mounts(&runtimeapi.Mount{ContainerPath: "/dev/termination-log", HostPath: dir},
			&runtimeapi.Mount{ContainerPath: "/dev/termination-log", HostPath: filepath.Join(other, "file")}), "cat /dev/termination-log", "second"},
		"image, then host": {mounts(&runtimeapi.Mount{ContainerPath: "/d", Image: image}, &runtimeapi.Mount{ContainerPath: "/d", HostPath: dir}), "cat /d/file", "first"},
		"host, then image": {mounts(&runtimeapi.Mount{ContainerPath: "/d", HostPath: dir}, &runtimeapi.Mount{ContainerPath: "/d", Image: image}), "ls /d/bin/sh", "/d/bin/sh\n"},
	} {
		id, err := p.create(client.Shell(strings.ReplaceAll(name, " ", "-"), sleeper, c.mounts))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		made := p.ctr(id)
		if err := made.TryStart(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := made.Sh(c.script); got != c.says {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
}
