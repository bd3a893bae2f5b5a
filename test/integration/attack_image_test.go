package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/registry"
)

// Images whose files or configuration lead the runtime out of the container's
// root while it prepares the container.
func TestAttackImage(t *testing.T) {
	unchanged(t, "/proc/sys/kernel/core_pattern")
	unchanged(t, "/etc/passwd")
	t.Run("CVE-2019-16884_image_with_/proc_elsewhere", procElsewhere)
	t.Run("CVE-2025-31133_image_whose_/dev/null_is_a_link", nullIsALink)
	t.Run("CVE-2025-52565_image_whose_/dev/console_is_a_link", consoleIsALink)
	t.Run("CVE-2024-5154_files_of_the_pod_as_links_to_the_host", podFilesAreLinks)
	t.Run("CVE-2022-23648_VOLUME_that_copies_from_the_host", volumeFromTheHost)
	t.Run("CVE-2024-9676_passwd_as_a_link_to_the_host", passwdIsALink)
	t.Run("CVE-2021-41190_manifest_that_is_an_index_too", ambiguousManifest)
	t.Run("CVE-2014-6408_security_options_in_an_image", securityOptions)
	t.Run("CVE-2024-40635_USER_past_32_bits", hugeUser)
	t.Run("CVE-2021-25741_sub_path_out_of_an_image_volume", subPathOut)
}

// procElsewhere: masks must lie where the kernel shows its files, or nothing runs.
func procElsewhere(t *testing.T) {
	p := shared.pod(t)
	for i, dir := range []string{"/proc", "/sys", "/dev"} {
		image := evil(t, "elsewhere-"+dir[1:], nil, registry.File{Path: dir, Link: "/elsewhere"},
			registry.File{Path: "/elsewhere/self/attr/exec", Mode: 0o666}, registry.File{Path: "/elsewhere/keys", Mode: 0o666})
		c, err := p.tryStart(fmt.Sprint("c-", i), sleeper, asTenant, image)
		if err != nil {
			continue
		}
		masksHold(t, c)
	}
}

// masksHold wants /proc to be the kernel's, and covered where asked for.
func masksHold(t *testing.T, c *ctr) {
	t.Helper()
	c.says("up")
	kinds := map[string]string{}
	for _, m := range mountTable(t, c.hostPID()) {
		kinds[m.Mountpoint] = m.FSType
	}
	if kinds["/proc"] != "proc" {
		t.Errorf("at /proc is %q of %v", kinds["/proc"], kinds)
	}
	for _, file := range []string{"/proc/keys", "/proc/timer_list", "/proc/kcore", "/proc/sys", "/proc/sysrq-trigger"} {
		if _, err := os.Stat(file); err == nil && kinds[file] == "" {
			t.Errorf("nothing covers %s", file)
		}
	}
	if got := c.Sh("cat /proc/keys /proc/timer_list 2>/dev/null | wc -c"); strings.TrimSpace(got) != "0" {
		t.Errorf("of masked files it reads %s bytes", got)
	}
}

func nullIsALink(t *testing.T) {
	image := evil(t, "null", nil,
		registry.File{Path: "/dev/null", Link: "/proc/sys/kernel/core_pattern"},
		registry.File{Path: "/dev/full", Link: "/proc/sysrq-trigger"}, registry.File{Path: "/dev/zero", Link: above("/dev/kmsg")})
	c := shared.pod(t).idle("c", asTenant, image)
	if got := c.Sh("stat -c %t:%T /dev/null /dev/full /dev/zero"); got != "1:3\n1:7\n1:5\n" {
		t.Errorf("the devices are %q", got)
	}
	masksHold(t, c)
	if got := c.Sh("stat -c %t:%T /proc/keys"); got != "1:3\n" {
		t.Errorf("the mask is %q", got)
	}
}

func consoleIsALink(t *testing.T) {
	image := evil(t, "console", nil,
		registry.File{Path: "/dev/console", Link: "/proc/sys/kernel/core_pattern"},
		registry.File{Path: "/dev/pts/0", Link: "/proc/sysrq-trigger"}, registry.File{Path: "/dev/ptmx", Link: above("/dev/ptmx")})
	c := shared.pod(t).start("c", sleeper, asTenant, image, func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	c.says("up")
	if got := c.Sh("stat -c %F /dev/console; readlink /dev/ptmx; stat -c %F /dev/pts/0"); got != "character special file\npts/ptmx\ncharacter special file\n" {
		t.Errorf("the console is %q", got)
	}
	for _, m := range mountTable(t, c.hostPID()) {
		if m.FSType == "devpts" && strings.HasPrefix(m.Mountpoint, "/proc") {
			t.Errorf("a terminal is mounted at %s", m.Mountpoint)
		}
	}
}

func podFilesAreLinks(t *testing.T) {
	dir := secret(t)
	var files []registry.File
	for i, f := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/dev/termination-log"} {
		files = append(files, registry.File{Path: f, Link: above(fmt.Sprintf("%s/made-%d", dir, i))})
	}
	image := evil(t, "pod-files", nil, files...)
	c, err := shared.pod(t).tryStart("c", sleeper, image)
	if err == nil {
		c.says("up")
		c.Sh("for f in hosts hostname resolv.conf mtab; do echo x > /etc/$f; done; true")
	}
	image = evil(t, "pod-files-direct", nil, registry.File{Path: "/etc/hosts", Link: dir + "/secret"}, registry.File{Path: "/etc/resolv.conf", Link: "/proc/1/root" + dir + "/secret"})
	if c, err := shared.pod(t, named("direct")).tryStart("c", sleeper, image); err == nil {
		c.says("up")
		c.Sh("for f in hosts resolv.conf; do echo x > /etc/$f; done; true")
	}
}

func volumeFromTheHost(t *testing.T) {
	dir := secret(t)
	paths := []string{"/data", "/deep/data", above(dir), "/..data/../.." + above(dir)}
	image := evil(t, "volume", func(c *v1.Config) {
		c.Volumes = map[string]struct{}{}
		for _, p := range paths {
			c.Volumes[p] = struct{}{}
		}
	}, registry.File{Path: "/data", Link: above(dir)}, registry.File{Path: "/deep", Link: above(filepath.Dir(dir))},
		registry.File{Path: "/deeper", Link: dir})
	c, err := shared.pod(t).tryStart("c", sleeper, image)
	if err != nil {
		return
	}
	c.says("up")
	if got := c.Sh(fmt.Sprintf("cat /data/secret /deep/data/secret /deeper/secret .%[1]s/secret; find / -xdev -name secret; "+
		"for m in $(awk '{print $5}' /proc/self/mountinfo); do find $m -maxdepth 2 -name secret; done 2>/dev/null; true", dir)); got != "" {
		t.Errorf("it finds %q", got)
	}
}

func passwdIsALink(t *testing.T) {
	dir := volume(t)
	text := "evil:x:0:0::/:/bin/sh\nimported:x:77:77::/:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := shared.pod(t)
	for i, link := range []string{above(dir + "/passwd"), dir + "/passwd", "/proc/self/root" + dir + "/passwd"} {
		image := evil(t, fmt.Sprint("passwd-", i), func(c *v1.Config) { c.User = "imported" },
			registry.File{Path: "/etc/passwd", Link: link}, registry.File{Path: "/etc/group", Link: link})
		c, err := p.tryStart(fmt.Sprint("c-", i), "id -u", image)
		if err == nil {
			c.Ended()
			t.Errorf("by %s the host's file made it user %q", link, output(readLog(t, c.LogFile()), "stdout"))
		} else if strings.Contains(err.Error(), "evil") {
			t.Errorf("the error has the host's file in it: %v", err)
		}
	}
}

// rawManifest is a document as the registry is to serve it.
type rawManifest struct {
	data []byte
	kind types.MediaType
}

func (m rawManifest) RawManifest() ([]byte, error)        { return m.data, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return m.kind, nil }

func ambiguousManifest(t *testing.T) {
	base, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	const ref = "docker.io/attack/ambiguous:v1"
	if err := images.Push(ref, base); err != nil {
		t.Fatal(err)
	}
	manifest, err := base.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	both := strings.TrimSuffix(strings.TrimSpace(string(manifest)), "}") + fmt.Sprintf(`,"manifests":[{"mediaType":%q,"size":2,"digest":"sha256:%s","platform":{"os":"linux","architecture":%q}}]}`,
		types.OCIManifestSchema1, strings.Repeat("0", 64), runtime.GOARCH)
	tag, err := name.NewTag(images.Host+"/attack/ambiguous:v2", name.Insecure)
	if err == nil {
		err = remote.Put(tag, rawManifest{[]byte(both), types.OCIManifestSchema1})
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = shared.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "docker.io/attack/ambiguous:v2"}})
	if err == nil {
		shared.removeImage(t, "docker.io/attack/ambiguous:v2")
		t.Error("a document with layers and manifests was pulled as an image")
	}
}

// securityOptions: what an image says of itself weakens nothing.
func securityOptions(t *testing.T) {
	image := evil(t, "options", func(c *v1.Config) {
		c.Labels = map[string]string{"io.kubernetes.cri-o.userns-mode": "host", "berth/init": "true", "seccomp": "unconfined", "privileged": "true"}
		c.Env = append(c.Env, "LD_PRELOAD=/evil.so", "NOTIFY_SOCKET=/run/x", "_LIBCONTAINER_INITPIPE=3", "_LIBCONTAINER_LOGPIPE=4", "LISTEN_FDS=9")
	})
	c := shared.pod(t).idle("c", asTenant, image)
	if got := statusField(t, c.hostPID(), "Seccomp"); got != "2" {
		t.Errorf("its seccomp mode is %s", got)
	}
	masksHold(t, c)
}

func hugeUser(t *testing.T) {
	p := shared.pod(t)
	for i, user := range []string{"4294967296", "4294967296:4294967296", "18446744073709551616", "1000:4294967296", "-1", "2147483648:9999999999999999999999", "0x0", "00000000000000000000000000", "+0"} {
		image := evil(t, fmt.Sprint("user-", i), func(c *v1.Config) { c.User = user })
		c, err := p.tryStart(fmt.Sprint("c-", i), sleeper, image)
		if err != nil {
			continue
		}
		c.says("up")
		if got := statusField(t, c.hostPID(), "Uid") + statusField(t, c.hostPID(), "Gid"); user[0] != '0' && strings.Contains(got, "0\t0") {
			t.Errorf("USER %s runs as %q", user, got)
		}
	}
}

func subPathOut(t *testing.T) {
	dir := secret(t)
	const ref = "docker.io/attack/sub-path:v1"
	evil(t, "sub-path", nil, registry.File{Path: "/out", Link: above(dir)}, registry.File{Path: "/absolute", Link: dir},
		registry.File{Path: "/deep", Link: above(filepath.Dir(dir))}, registry.File{Path: "/fine/file", Mode: 0o644, Data: []byte("fine\n")})
	shared.pull(t, ref)
	p := shared.pod(t)
	for i, sub := range []string{"out", "absolute", "deep/" + filepath.Base(dir), ".." + above(dir), "fine/../../.." + above(dir), dir, "out/secret", "fine"} {
		c, err := p.tryStart(fmt.Sprint("c-", i), "ls /volume", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: ref}, ImageSubPath: sub, Readonly: true}}
		})
		if err != nil {
			if sub == "fine" {
				t.Errorf("a sub path without a way out: %v", err)
			}
			continue
		}
		c.Ended()
		if got := output(readLog(t, c.LogFile()), "stdout"); sub != "fine" && strings.Contains(got, "secret") || sub == "fine" && got != "file\n" {
			t.Errorf("at sub path %s it sees %q", sub, got)
		}
	}
}

// Volumes of a tenant with links in them, through which mounts and their
// targets are made: none may come to lie outside the container.
func TestAttackVolume(t *testing.T) {
	t.Run("CVE-2019-19921_volume_over_/proc", volumeOverProc)
	t.Run("CVE-2025-52881_volume_inside_/proc_by_a_link", volumeInProcByLink)
	t.Run("CVE-2024-45310_target_made_on_the_host_by_a_link", targetByLink)
	t.Run("CVE-2021-30465_target_exchanged_for_a_link", targetExchanged)
	t.Run("propagation_from_a_container_to_the_host", propagation)
	t.Run("mount_of_the_host's_root_by_..", mountByDots)
	t.Run("program_in_/dev/shm", programInSharedMemory)
	t.Run("write_the_host's_own_/etc/hosts", hostsOfTheHost)
}

func bind(host, at string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: host, ContainerPath: at})
	}
}

func volumeOverProc(t *testing.T) {
	dir := volume(t)
	for _, sub := range []string{"self/attr", "sys/kernel", "1"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := shared.pod(t)
	for i, at := range []string{"/proc", "/proc/self", "/proc/self/attr", "/proc/sys", "/proc/sys/kernel", "/proc/1", "/proc/../proc/self"} {
		c, err := p.tryStart(fmt.Sprint("c-", i), sleeper, asTenant, bind(dir, at))
		if err == nil {
			t.Errorf("a volume is mounted at %s", at)
			masksHold(t, c)
		}
	}
}

func volumeInProcByLink(t *testing.T) {
	dir := volume(t)
	p := shared.pod(t)
	for i, link := range []string{"/proc", "/proc/self", "/proc/self/attr", "/proc/sys", "../../proc/self/attr"} {
		image := evil(t, fmt.Sprint("proc-", i), nil, registry.File{Path: "/alias", Link: link})
		for j, at := range []string{"/alias", "/alias/attr"} {
			c, err := p.tryStart(fmt.Sprintf("c-%d-%d", i, j), sleeper, asTenant, image, bind(dir, at))
			if err != nil {
				continue
			}
			c.says("up")
			for _, m := range mountTable(t, c.hostPID()) {
				if strings.HasPrefix(m.Mountpoint, "/proc/") && m.FSType != "proc" && m.FSType != "tmpfs" && m.FSType != "devtmpfs" {
					t.Errorf("by %s -> %s the volume is at %s", at, link, m.Mountpoint)
				}
			}
		}
	}
}

func targetByLink(t *testing.T) {
	dir := secret(t)
	vol, other := volume(t), volume(t)
	for name, link := range map[string]string{"up": above(dir), "absolute": dir, "proc": "/proc/self/root" + dir, "fd": "/proc/self/fd/7" + dir} {
		if err := os.Symlink(link, filepath.Join(vol, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := shared.pod(t)
	for i, at := range []string{"/vol/up/made", "/vol/absolute/made", "/vol/proc/made", "/vol/fd/made", "/vol/up", "/vol/absolute"} {
		before := len(mountTable(t, os.Getpid()))
		c, err := p.tryStart(fmt.Sprint("c-", i), sleeper, bind(vol, "/vol"), bind(other, at), bind(other, "/after"))
		if err != nil {
			continue
		}
		c.says("up")
		if table := mountTable(t, os.Getpid()); len(table) < before {
			t.Errorf("the host had %d mounts and has %d", before, len(table))
		}
		onHost(t, dir)
	}
}

// onHost fails the test when something is mounted at or below a directory of the host.
func onHost(t *testing.T, dir string) {
	t.Helper()
	for _, m := range mountTable(t, os.Getpid()) {
		if strings.HasPrefix(m.Mountpoint, dir) {
			t.Errorf("on the host %s is mounted at %s", m.Root, m.Mountpoint)
		}
	}
}

// targetExchanged: while containers start, the target of their second mount is
// exchanged for a link out of the root, as fast as can be.
func targetExchanged(t *testing.T) {
	dir := secret(t)
	vol, other := volume(t), volume(t)
	if err := os.WriteFile(filepath.Join(other, "planted"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	target, link := filepath.Join(vol, "target"), filepath.Join(vol, "link")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(above(dir), link); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		exchanges := 0
		for {
			select {
			case <-stop:
				stopped <- exchanges
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, target, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
				exchanges++
				if exchanges%64 == 0 {
					time.Sleep(time.Microsecond) // two cores
				}
			}
		}
	}()
	p := shared.pod(t)
	started := 0
	for i := range 40 {
		c, err := p.tryStart(fmt.Sprint("c-", i), "cat /planted /secret "+dir+"/secret ../.."+dir+"/secret 2>/dev/null; exec sleep 1000", bind(vol, "/vol"), bind(other, "/vol/target"))
		if err != nil {
			continue
		}
		started++
		onHost(t, dir)
		root := fmt.Sprintf("/proc/%d/root", c.hostPID())
		if _, err := os.Stat(root + dir + "/secret"); err == nil {
			t.Errorf("container %d sees the host's file", i)
		}
		if log := output(readLog(t, c.LogFile()), "stdout"); log != "" {
			t.Errorf("container %d reads %q", i, log)
		}
		if _, err := shared.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if n := <-stopped; n < 1000 {
		t.Errorf("only %d exchanges in %d starts", n, started)
	}
	t.Logf("%d of 40 started", started)
}

func propagation(t *testing.T) {
	host := volume(t)
	tmpfs(t, host)
	peers(t, host)
	if err := os.Mkdir(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := shared.pod(t).idle("c", atVolume(&runtimeapi.Mount{HostPath: host}, "SYS_ADMIN"))
	r, err := c.execSync(5, "sh", "-c", "mount --make-rshared /volume; mount --make-rshared /; mount -t tmpfs mine /volume/sub && touch /volume/sub/x")
	if err != nil || r.GetExitCode() != 0 {
		t.Errorf("it could not even mount for itself: %v %v", r, err)
	}
	if entries, err := os.ReadDir(filepath.Join(host, "sub")); err != nil || len(entries) != 0 {
		t.Errorf("the host sees %v, %v", entries, err)
	}
	onHost(t, filepath.Join(host, "sub"))
	_, err = mountinfo.GetMounts(func(i *mountinfo.Info) (bool, bool) {
		if i.Source == "mine" {
			t.Errorf("on the host the container's mount is at %s", i.Mountpoint)
		}
		return true, false
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mountByDots(t *testing.T) {
	dir, vol := secret(t), volume(t)
	p := shared.pod(t)
	for i, at := range []string{"/..", "/.", "/", "/a/../..", "/a/../../.." + dir, above(dir)} {
		c, err := p.tryStart(fmt.Sprint("c-", i), sleeper, bind(vol, at))
		onHost(t, dir)
		if err != nil {
			continue
		}
		c.says("up")
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/secret", c.hostPID(), dir)); err == nil {
			t.Errorf("at %s the host's root is the container's", at)
		}
	}
}

func programInSharedMemory(t *testing.T) {
	c := shared.pod(t).idle("c", asTenant, withProbe(t))
	r, err := c.execSync(5, "sh", "-c", "cp /probe /dev/shm/p && chmod 4755 /dev/shm/p && /dev/shm/p user")
	if err != nil || r.GetExitCode() == 0 || !strings.Contains(strings.ToLower(string(r.GetStderr())), "permission denied") {
		t.Errorf("it runs from /dev/shm: %v %v", r, err)
	}
	for _, at := range []string{"/dev/shm", "/dev/mqueue", "/proc", "/sys"} {
		options := mountOptions(t, c.hostPID(), at)
		for _, o := range []string{"nosuid", "nodev", "noexec"} {
			if options != "" && !strings.Contains(options, o) {
				t.Errorf("%s lacks %s: %s", at, o, options)
			}
		}
	}
}

func hostsOfTheHost(t *testing.T) {
	files := []string{"hosts", "hostname", "resolv.conf"}
	for _, f := range files {
		unchanged(t, "/etc/"+f)
	}
	for _, mode := range []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE} {
		o := &runtimeapi.NamespaceOption{Network: mode}
		c := shared.pod(t, named(mode.String()), namespaces(o)).idle("c", sameNamespaces(o))
		for _, f := range files {
			if got := c.Sh("echo '192.0.2.1 planted' > /etc/" + f + "; cat /etc/" + f); got != "192.0.2.1 planted\n" {
				t.Errorf("its own %s is %q", f, got)
			}
		}
	}
}
