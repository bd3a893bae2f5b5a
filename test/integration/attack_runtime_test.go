package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/registry"
)

// evil pushes busybox with files that attack, and removes it with the test.
func evil(t *testing.T, name string, change func(*v1.Config), files ...registry.File) func(*runtimeapi.ContainerConfig) {
	t.Helper()
	base, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img, err := registry.Extend(base, change, files...)
	ref := "docker.io/attack/" + name + ":v1"
	if err == nil {
		err = images.Push(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shared.removeImage(t, ref) })
	return func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref }
}

// tryStart is start for what may be refused: then it returns nil and why.
func (p *pod) tryStart(name, script string, change ...func(*runtimeapi.ContainerConfig)) (*ctr, error) {
	p.T.Helper()
	id, err := p.create(client.Shell(name, script, change...))
	if err != nil {
		return nil, err
	}
	c := p.ctr(id)
	if err := c.TryStart(); err != nil {
		return nil, err
	}
	return c, nil
}

// above is a path that leads from any directory to the host's, for whatever
// follows it in a wrong root.
func above(host string) string { return strings.Repeat("/..", 30) + host }

// Faults of runc by which a container reached the host while it was started or
// executed in, tried on berth.
func TestAttackRuntime(t *testing.T) {
	unchanged(t, "/proc/sys/kernel/core_pattern")
	t.Run("CVE-2019-5736_overwrite_the_runtime", overwriteRuntime)
	t.Run("CVE-2024-21626_leaked_descriptor_as_working_directory", leakedDirectory)
	t.Run("CVE-2024-21626_leaked_descriptor_as_directory_of_an_exec", leakedDirectoryOfExec)
	t.Run("descriptors_of_the_runtime_left_open", openDescriptors)
	t.Run("CVE-2021-3602_environment_of_the_daemon", environment)
	t.Run("CVE-2020-15257_abstract_sockets_of_the_shim", abstractSockets)
	t.Run("CVE-2021-41103_containers'_files_for_others_on_the_host", filesForOthers)
	t.Run("CVE-2022-1708_endless_output_of_an_exec", endlessOutput)
	t.Run("CVE-2023-25173_supplementary_groups_of_the_daemon", groups)
	t.Run("CVE-2022-4318_line_of_passwd_by_HOME", passwdByHome)
	t.Run("CVE-2024-3154_systemd_properties_by_annotation", systemdProperties)
	t.Run("CVE-2021-43784_overflow_of_ID_mappings", longMappings)
	t.Run("setuid_program_with_no_new_privs", setuidProgram)
	t.Run("CVE-2017-5226_typing_into_the_host's_terminal", typeAhead)
}

func overwriteRuntime(t *testing.T) {
	shim := filepath.Join("..", "..", "bin", "berth-shim")
	before := content(t, shim)
	p := shared.pod(t)
	victim := p.idle("victim")
	hunter := p.start("hunter", "", asTenant, runs(t, "hunt", "3000", probePath, "/bin/busybox", "/bin/sh", "/bin/sleep", "/bin/true"))
	hunter.says("hunting")
	link := evil(t, "self-exe", nil, registry.File{Path: "/bin/script", Mode: 0o755, Data: []byte("#!/proc/self/exe\n")})
	for i, command := range []string{"/proc/self/exe", "/bin/script", "/proc/self/exe"} {
		c, err := p.tryStart(fmt.Sprint("self-", i), "", link, func(c *runtimeapi.ContainerConfig) { c.Command = []string{command, "init"} })
		if err == nil {
			c.Ended()
		}
		_, _ = victim.execSync(5, command, "init") // whatever it becomes, it must not be the runtime
		victim.Sh("true")
	}
	hunter.Ended()
	if log := output(readLog(t, hunter.LogFile()), "stdout"); strings.Contains(log, "OPENED") || !strings.Contains(log, "seen") {
		t.Errorf("the hunter says %s", log)
	}
	if content(t, shim) != before {
		t.Error("the shim's program was changed")
	}
}

func leakedDirectory(t *testing.T) {
	dir := secret(t)
	p := shared.pod(t)
	look := fmt.Sprintf("cat .%s/secret; cat ..%s/secret; true", dir, above(dir))
	try := func(name, workdir string, change ...func(*runtimeapi.ContainerConfig)) {
		c, err := p.tryStart(name, look, append(change, func(c *runtimeapi.ContainerConfig) { c.WorkingDir = workdir })...)
		if err != nil {
			return
		}
		c.Ended()
		if got := output(readLog(t, c.LogFile()), "stdout"); got != "" {
			t.Errorf("from %s it reads %q", workdir, got)
		}
	}
	for fd := 3; fd < 16; fd++ {
		try(fmt.Sprint("fd-", fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	for _, fd := range []int{7, 8, 9} {
		image := evil(t, fmt.Sprint("workdir-", fd), nil, registry.File{Path: "/work", Link: fmt.Sprintf("/proc/self/fd/%d", fd)})
		try(fmt.Sprint("link-", fd), "/work", image)
	}
}

func leakedDirectoryOfExec(t *testing.T) {
	dir := secret(t)
	p := shared.pod(t)
	c := p.idle("c", func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/work" })
	if got := c.Sh("pwd"); got != "/work\n" {
		t.Fatalf("an exec is in %q", got)
	}
	for fd := 3; fd < 24; fd++ {
		c.Sh(fmt.Sprintf("cd / && rm -rf /work && ln -s /proc/self/fd/%d /work && mkdir /next && mv /next /next-%d", fd, fd))
		r, err := c.execSync(5, "cat", "."+dir+"/secret", ".."+above(dir)+"/secret")
		if err == nil && len(r.GetStdout()) > 0 {
			t.Errorf("by descriptor %d an exec reads %q", fd, r.GetStdout())
		}
		// The directory is put right from a container that shares it by the host.
		root := fmt.Sprintf("/proc/%d/root", c.hostPID())
		if err := os.Remove(root + "/work"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(root+"/work", 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func openDescriptors(t *testing.T) {
	const list = "cd /proc/self/fd && for f in [0-9]*; do readlink $f; done; true"
	p := shared.pod(t)
	run := p.start("run", list)
	run.Ended()
	lines := output(readLog(t, run.LogFile()), "stdout")
	if out := lines + p.idle("c").Sh(list); strings.Contains(out, "/") && !onlyPipes(out) {
		t.Errorf("open are %q", out)
	}
}

// onlyPipes tells whether nothing but pipes, nothing and /proc is open.
func onlyPipes(list string) bool {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line != "" && line != "/dev/null" && !strings.HasPrefix(line, "pipe:") && !strings.HasPrefix(line, "/proc/") {
			return false
		}
	}
	return true
}

func environment(t *testing.T) {
	o := pidMode(runtimeapi.NamespaceMode_CONTAINER)
	c := shared.pod(t, namespaces(o)).idle("c", sameNamespaces(o))
	got := c.Sh("env; tr '\\0' '\\n' < /proc/1/environ")
	there := procFile(t, shared.PID(), "environ")
	if !strings.Contains(there, "NOTIFY_SOCKET=") {
		t.Errorf("the daemon's environment is %q, nothing to leak", there)
	}
	for line := range strings.SplitSeq(there, "\x00") {
		name, _, _ := strings.Cut(line, "=")
		if slices.Contains([]string{"PATH", "HOME", "PWD", "SHLVL", "HOSTNAME", "TERM", "OLDPWD", ""}, name) {
			continue // a shell has them of its own
		}
		if strings.Contains("\n"+got, "\n"+name+"=") {
			t.Errorf("the container has %s of the daemon", name)
		}
	}
}

func abstractSockets(t *testing.T) {
	shared.pod(t).idle("c")
	table := procFile(t, shared.PID(), "net/unix")
	named := 0
	for _, pid := range []int{shared.PID(), shared.shim(t)} {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			link, _ := os.Readlink(fd)
			inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
			for line := range strings.Lines(table) {
				if f := strings.Fields(line); len(f) == 8 && f[6] == inode {
					named++
					if strings.HasPrefix(f[7], "@") {
						t.Errorf("process %d has the abstract socket %s, open to every container of the host's network", pid, f[7])
					}
				}
			}
		}
	}
	if named == 0 {
		t.Error("no socket with a name was found, not even the daemon's")
	}
}

func filesForOthers(t *testing.T) {
	c := shared.pod(t).idle("c")
	tried := 0
	for _, m := range containerMounts(t, c.ID) {
		for _, file := range []string{m, filepath.Join(m, "bin", "busybox")} {
			if _, err := os.Stat(file); err != nil {
				continue
			}
			tried++
			ls := exec.Command("ls", "-ld", file)
			ls.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := ls.CombinedOutput(); err == nil {
				t.Errorf("nobody reaches %s", out)
			}
		}
	}
	if tried == 0 {
		t.Errorf("no mount of %s was found", c.ID)
	}
}

// containerMounts are the host's mount points that name a container.
func containerMounts(t *testing.T, id string) (at []string) {
	t.Helper()
	_, err := mountinfo.GetMounts(func(i *mountinfo.Info) (bool, bool) {
		if strings.Contains(i.Mountpoint, id) {
			at = append(at, i.Mountpoint)
		}
		return true, false
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func endlessOutput(t *testing.T) {
	c := shared.pod(t).idle("c")
	before := number(t, strings.Fields(statusField(t, shared.PID(), "VmHWM"))[0])
	r, err := c.execSync(20, "sh", "-c", "yes | head -c 400000000; yes | head -c 400000000 >&2")
	if got := len(r.GetStdout()) + len(r.GetStderr()); err == nil && got > 32<<20 {
		t.Errorf("%d bytes were returned", got)
	}
	if peak := number(t, strings.Fields(statusField(t, shared.PID(), "VmHWM"))[0]); peak-before > 256<<10 {
		t.Errorf("the daemon grew by %d KiB", peak-before)
	}
	if got := c.Sh("echo alive"); got != "alive\n" {
		t.Error(got)
	}
}

func groups(t *testing.T) {
	p := shared.pod(t)
	const show = "grep ^Groups: /proc/self/status | tr -s '\\t ' ' '"
	for name, want := range map[string]string{"user": "1000", "group": "2000", "more": "3000 5000"} {
		c := p.idle(name, guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			switch name {
			case "group":
				sc.RunAsGroup = &runtimeapi.Int64Value{Value: 2000}
			case "more":
				sc.RunAsGroup, sc.SupplementalGroups = &runtimeapi.Int64Value{Value: 3000}, []int64{5000}
			}
		}))
		if name == "user" {
			want = strings.TrimSpace(c.Sh("id -g")) // the group of a user whom no passwd names
		}
		for who, got := range map[string]string{"the container": statusField(t, c.hostPID(), "Groups"), "an exec": c.Sh(show)} {
			got = strings.TrimSpace(strings.TrimPrefix(strings.Join(strings.Fields(got), " "), "Groups:"))
			// A group that is only primary makes a file forbidden to it readable again by newgrp.
			if got != want {
				t.Errorf("%s: %s has the groups %q, want %q", name, who, got, want)
			}
		}
	}
}

func passwdByHome(t *testing.T) {
	unchanged(t, "/etc/passwd")
	p := shared.pod(t)
	c, err := p.tryStart("c", "cat /etc/passwd; id -u", guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.RunAsUser = &runtimeapi.Int64Value{Value: 4242}
	}), func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "HOME", Value: []byte("/root\nevil::0:0::/:/bin/sh")}}
	})
	if err != nil {
		return
	}
	c.Ended()
	got := output(readLog(t, c.LogFile()), "stdout")
	if strings.Contains(got, "evil") || !strings.HasSuffix(got, "4242\n") {
		t.Errorf("it has %q", got)
	}
}

func systemdProperties(t *testing.T) {
	const slice = "berth-attack.slice" // none that systemd would choose
	wish := map[string]string{"org.systemd.property.TasksMax": "uint64 3", "org.systemd.property.Slice": "'" + slice + "'"}
	p := shared.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Annotations = wish })
	c := p.idle("c", func(c *runtimeapi.ContainerConfig) { c.Annotations = wish })
	if got := cgroupValue(t, c, "pids", "pids.max", "pids.max"); got == "3" {
		t.Error("an annotation set a property of the container's unit")
	}
	if got := procFile(t, c.hostPID(), "cgroup"); strings.Contains(got, slice) {
		t.Errorf("an annotation moved the container to %s", got)
	}
}

func longMappings(t *testing.T) {
	var ids []*runtimeapi.IDMapping
	for i := range uint32(6000) { // 12 bytes and more each, past what a length of 16 bits can say
		ids = append(ids, &runtimeapi.IDMapping{HostId: 1_000_000_000 + 2*i, ContainerId: i, Length: 1})
	}
	config := shared.podConfig(t)
	namespaces(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}})(config)
	r, err := shared.Runtime.RunPodSandbox(within(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err == nil {
		shared.podOf(t, r.GetPodSandboxId(), nil).End()
		t.Fatal("6000 mappings were accepted")
	}
	refused(t, "6000 mappings", err)
}

func setuidProgram(t *testing.T) {
	p := shared.pod(t)
	image := evil(t, "setuid", nil, registry.File{Path: "/su", Mode: os.ModeSetuid | 0o755, From: probeFile(t)})
	for _, forbidden := range []bool{true, false} {
		c := p.idle(fmt.Sprint("c-", forbidden), image, guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.NoNewPrivs = &runtimeapi.Int64Value{Value: 1000}, forbidden
		}))
		want := map[bool]string{true: "1000\n", false: "0\n"}[forbidden]
		if got := c.Sh("/su user"); got != want {
			t.Errorf("no_new_privs %v: the setuid program is user %q, want %q", forbidden, got, want)
		}
	}
}

// typeAhead: the terminal of a container is of its own devpts, so that what is
// typed into it reaches no shell of the host.
func typeAhead(t *testing.T) {
	c := shared.pod(t).start("c", sleeper, func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	c.says("up")
	var console, host unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/fd/0", c.hostPID()), &console); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/dev/pts", &host); err != nil {
		t.Skipf("this machine has no terminals: %v", err)
	}
	if console.Dev == host.Dev || console.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Errorf("the console is mode %o on device %d, the host's terminals are on %d", console.Mode, console.Dev, host.Dev)
	}
	tty := strings.Fields(strings.SplitN(procFile(t, c.hostPID(), "stat"), ") ", 2)[1])[4]
	if own := strings.Fields(strings.SplitN(procFile(t, os.Getpid(), "stat"), ") ", 2)[1])[4]; tty == own && own != "0" {
		t.Errorf("it controls terminal %s, and so does the test", tty)
	}
	if n, err := strconv.Atoi(tty); err != nil || n == 0 {
		t.Errorf("its terminal is %q", tty)
	}
}
