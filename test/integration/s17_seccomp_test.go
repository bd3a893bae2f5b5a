package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cmd/berth/explain"
	"berth/test/client"
)

// S17: the guards of a container, by what the kernel says of its process and by
// what happens when it runs into them. That a profile that is not there is
// refused is in [TestBadContainers], too.
func TestS17Seccomp(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		t.Skipf("this kernel has no seccomp filter: %v", err)
	}
	p := shared.pod(t)
	t.Run("profiles", func(t *testing.T) { s17Profiles(t, p) })
	t.Run("kills", func(t *testing.T) { s17Kills(t, p) })
	t.Run("fails", func(t *testing.T) { s17Fails(t, p) })
	t.Run("refused", func(t *testing.T) { s17Refused(t, p) })
	t.Run("no_new_privs", func(t *testing.T) { s17NoNewPrivs(t, p) })
	t.Run("masked and read-only paths", func(t *testing.T) { s17Paths(t, p) })
	t.Run("read-only root", func(t *testing.T) { s17Root(t, p) })
}

// security gives a container a security context.
func security(sc *runtimeapi.LinuxContainerSecurityContext) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext = sc }
}

// filtered gives a container a seccomp profile.
func filtered(kind runtimeapi.SecurityProfile_ProfileType, file string) func(*runtimeapi.ContainerConfig) {
	return security(&runtimeapi.LinuxContainerSecurityContext{
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: file},
	})
}

// profile writes one that treats system calls specially and lets others through.
func profile(t *testing.T, action string, calls ...string) string {
	t.Helper()
	file := filepath.Join(volume(t), "profile.json")
	text := fmt.Sprintf(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["%s"], "action": %q}]}`, strings.Join(calls, `", "`), action)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// s17Profiles: the mode of /proc, and a call that the default profile forbids.
func s17Profiles(t *testing.T, p *pod) {
	for name, c := range map[string]struct {
		change          func(*runtimeapi.ContainerConfig)
		mode            string
		unshare, keyctl string
	}{
		"default":    {filtered(runtimeapi.SecurityProfile_RuntimeDefault, ""), "2", "operation not permitted", "operation not permitted"},
		"unconfined": {filtered(runtimeapi.SecurityProfile_Unconfined, ""), "0", "errno 0", "allowed"},
		"localhost":  {filtered(runtimeapi.SecurityProfile_Localhost, profile(t, "SCMP_ACT_ERRNO", "keyctl")), "2", "errno 0", "operation not permitted"},
	} {
		run := p.idle(name, c.change, withProbe(t))
		if got := statusField(t, run.hostPID(), "Seccomp"); got != c.mode {
			t.Errorf("%s: mode %s, want %s", name, got, c.mode)
		}
		for call, want := range map[string]string{"unshare": c.unshare, "keyctl": c.keyctl} {
			got := strings.TrimSpace(run.Sh(probePath + " call " + call))
			if want == "allowed" && got != "operation not permitted" {
				continue // whatever the kernel answers to a call without arguments
			}
			if got != want {
				t.Errorf("%s: %s gives %q, want %q", name, call, got, want)
			}
		}
		want := map[string]string{"0": "none", "2": "a filter"}[c.mode]
		if got := factOf(shared.explain(t, run.ID), "security", "seccomp"); got != want {
			t.Errorf("%s: explain says %q, want %q", name, got, want)
		}
	}
}

// namesSeccomp checks that the likely reason leads to the seccomp filter.
func namesSeccomp(t *testing.T, r *explain.Report) {
	t.Helper()
	if !strings.Contains(r.Likely, "seccomp") || !strings.Contains(r.Likely, "layer security") {
		t.Errorf("most likely: %s", r.Likely)
	}
}

// s17Kills: the process ends by SIGSYS, told as such.
func s17Kills(t *testing.T, p *pod) {
	c := p.start("killed", "", filtered(runtimeapi.SecurityProfile_Localhost, profile(t, "SCMP_ACT_KILL_PROCESS", "sync")), runs(t, "call", "sync"))
	if st := c.Ended(); st.GetExitCode() != 128+31 {
		t.Errorf("it ended with %d %s, want SIGSYS", st.GetExitCode(), st.GetReason())
	}
	namesSeccomp(t, shared.explain(t, c.ID))
}

// s17Fails: the call fails, the program ends by itself and says why.
func s17Fails(t *testing.T, p *pod) {
	c := p.start("failed", "chmod 700 /tmp", filtered(runtimeapi.SecurityProfile_Localhost, profile(t, "SCMP_ACT_ERRNO", "chmod", "fchmodat", "fchmodat2")))
	if st := c.Ended(); st.GetExitCode() != 1 {
		t.Errorf("it ended with %d", st.GetExitCode())
	}
	if got := output(readLog(t, c.LogFile()), "stderr"); !strings.Contains(got, "Operation not permitted") {
		t.Errorf("it said %q", got)
	}
	namesSeccomp(t, shared.explain(t, c.ID))
}

// s17Refused: a profile that can't be read is told by its name.
func s17Refused(t *testing.T, p *pod) {
	gone := filepath.Join(volume(t), "gone.json")
	damaged := filepath.Join(volume(t), "damaged.json")
	if err := os.WriteFile(damaged, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{gone, damaged} {
		_, err := p.create(client.Shell("refused", "true", filtered(runtimeapi.SecurityProfile_Localhost, file)))
		refused(t, file, err)
		if err != nil && !strings.Contains(err.Error(), file) {
			t.Errorf("the error does not name the profile: %v", err)
		}
	}
}

// s17NoNewPrivs: a setuid program of another user gains nothing.
func s17NoNewPrivs(t *testing.T, p *pod) {
	dir := volume(t)
	tmpfs(t, dir) // whatever the machine's disks are mounted with
	program, err := os.ReadFile(probeFile(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "setuid"), program, 0o755)
	}
	if err == nil {
		err = os.Chmod(filepath.Join(dir, "setuid"), os.ModeSetuid|0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, denied := range []bool{true, false} {
		c := p.idle(fmt.Sprint("no-new-privs-", denied), atVolume(&runtimeapi.Mount{HostPath: dir}),
			security(&runtimeapi.LinuxContainerSecurityContext{NoNewPrivs: denied, RunAsUser: &runtimeapi.Int64Value{Value: 1000}}))
		want, bit := "0\n", "0"
		if denied {
			want, bit = "1000\n", "1"
		}
		if got := statusField(t, c.hostPID(), "NoNewPrivs"); got != bit {
			t.Errorf("NoNewPrivs is %s, want %s", got, bit)
		}
		if got := c.Sh("/volume/setuid user"); got != want {
			t.Errorf("with NoNewPrivs %s a setuid program is %q", bit, got)
		}
		if got := factOf(shared.explain(t, c.ID), "security", "no_new_privs"); got != fmt.Sprint(denied) {
			t.Errorf("explain says %q, want %v", got, denied)
		}
	}
}

// s17Paths: as the mount table has them, and as the container finds them.
func s17Paths(t *testing.T, p *pod) {
	c := p.idle("paths", security(&runtimeapi.LinuxContainerSecurityContext{
		MaskedPaths: []string{"/proc/keys", "/sys/firmware", "/no/such/path"}, ReadonlyPaths: []string{"/proc/sys", "/no/such/path"},
	}))
	pid := c.hostPID()
	for _, at := range []string{"/proc/keys", "/sys/firmware"} {
		if _, err := os.Stat(at); err != nil {
			continue // this kernel has no such file
		}
		if mountOptions(t, pid, at) == "" {
			t.Errorf("nothing hides %s", at)
		}
	}
	if got := mountOptions(t, pid, "/proc/sys"); !strings.HasPrefix(got, "ro,") {
		t.Errorf("/proc/sys is %q", got)
	}
	if got := c.Sh("cat /proc/keys | wc -c; ls /sys/firmware 2>/dev/null | wc -l; echo 1 2>/dev/null > /proc/sys/kernel/shm_rmid_forced || echo no"); got != "0\n0\nno\n" {
		t.Errorf("inside: %q", got)
	}
	want := "3, and 3 read-only" // with the cgroups of v1
	if v2 {
		want = "3, and 2 read-only"
	}
	if got := factOf(shared.explain(t, c.ID), "security", "masked paths"); got != want {
		t.Errorf("explain says %q", got)
	}
	open := p.idle("open", security(&runtimeapi.LinuxContainerSecurityContext{}))
	for _, at := range []string{"/proc/keys", "/proc/sys"} {
		if got := mountOptions(t, open.hostPID(), at); got != "" {
			t.Errorf("with procMount Unmasked %s is covered by %q", at, got)
		}
	}
}

// s17Root: nothing but what is mounted can be written, and explain says where to look.
func s17Root(t *testing.T, p *pod) {
	readonly := security(&runtimeapi.LinuxContainerSecurityContext{ReadonlyRootfs: true})
	c := p.idle("readonly", readonly)
	if got := mountOptions(t, c.hostPID(), "/"); !strings.HasPrefix(got, "ro,") {
		t.Errorf("its root is %q", got)
	}
	for _, file := range []string{"/x", "/tmp/x", "/etc/hosts", "/etc/resolv.conf"} {
		if r, err := c.execSync(5, "touch", file); err != nil || r.GetExitCode() == 0 {
			t.Errorf("it writes to %s, %v", file, err)
		}
	}
	if got := c.Sh("echo fine > /dev/shm/x && cat /dev/shm/x"); got != "fine\n" {
		t.Errorf("in /dev/shm it reads %q", got)
	}
	if got := factOf(shared.explain(t, c.ID), "filesystem", "root"); !strings.Contains(got, "read-only") {
		t.Errorf("explain says of the root %q", got)
	}
	failing := p.start("failing", "exec touch /data", readonly)
	if st := failing.Ended(); st.GetExitCode() == 0 {
		t.Error("it wrote to its root")
	}
	if got := shared.explain(t, failing.ID).Likely; !strings.HasPrefix(got, "filesystem: it wrote where it may not") {
		t.Errorf("most likely: %s", got)
	}
}
