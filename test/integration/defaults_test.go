package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
	"berth/test/client"
	"berth/test/node"
)

// What the operator gives to containers that ask for nothing is what the kernel has of
// them, in the container and in an exec.
func TestDefaultsInTheKernel(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "seccomp.json")
	text := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}`
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := own(t, node.Options{Args: []string{
		"--default-ulimits", "nofile=1000:2000,core=0", "--default-capabilities", "CHOWN,KILL", "--seccomp-default", profile,
		"--device-ownership-from-security-context", "--shm-size", "8MiB",
	}})
	p := s.pod(t)
	c := p.idle("c", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
			RunAsUser: &runtimeapi.Int64Value{Value: 1234}, RunAsGroup: &runtimeapi.Int64Value{Value: 4321},
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		}
		c.Devices = []*runtimeapi.Device{{HostPath: "/dev/full", ContainerPath: "/dev/own", Permissions: "rw"}}
	})
	status := procFile(t, c.hostPID(), "status")
	const chownAndKill = "0000000000000021"
	if !strings.Contains(status, "CapBnd:\t"+chownAndKill) || !strings.Contains(status, "Seccomp:\t2") {
		t.Errorf("the container's capabilities are not CHOWN and KILL, or it has no filter:\n%s", status)
	}
	limits := procFile(t, c.hostPID(), "limits")
	for _, want := range []string{`Max open files +1000 +2000 `, `Max core file size +0 +0 `} {
		if !regexp.MustCompile(want).MatchString(limits) {
			t.Errorf("the limits lack %q:\n%s", want, limits)
		}
	}
	for script, want := range map[string]string{
		"ulimit -n; ulimit -Hn":                  "1000\n2000\n",
		"mkdir /tmp/x 2>&1 | grep -c supp":       "1\n",
		"stat -c %u:%g /dev/own":                 "1234:4321\n",
		"df -k /dev/shm | awk 'NR==2{print $2}'": "8192\n",
	} {
		if got := c.Sh(script + "; true"); got != want {
			t.Errorf("%s says %q, want %q", script, got, want)
		}
	}
}

// A pod with a memory limit may have as much shared memory; one without gets no more than
// the node gives.
func TestShmAnnotation(t *testing.T) {
	annotated := func(size string, limit int64) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{sandbox.ShmAnnotation: size}
			if limit > 0 {
				c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: limit}
				if systemdDriver(t) { // only a slice can have limits, and its owner sets them
					c.Linux.CgroupParent = "system.slice"
				}
			}
		}
	}
	c := shared.pod(t, annotated("96Mi", 128<<20)).idle("c")
	if got := c.Sh("df -k /dev/shm | awk 'NR==2{print $2}'"); got != "98304\n" {
		t.Errorf("/dev/shm has %q KiB, want 96 Mi", got)
	}
	config := shared.podConfig(t)
	annotated("96Mi", 0)(config)
	_, err := shared.RunPod(within(t), config)
	wantCode(t, "a pod that wants more shared memory than the node gives, without a memory limit", err, codes.InvalidArgument)
}

// A log stops at its limit with a line that says so, until the kubelet rotates it; a
// container that writes faster than the rate waits, also in the shim's replacement.
func TestLogLimits(t *testing.T) {
	s := own(t, node.Options{Args: []string{"--log-limits", "size=200KiB,rate=64KiB"}})
	p := s.pod(t)
	began := time.Now()
	c := p.start("flood", "i=0; while [ $i -lt 6000 ]; do echo 0123456789012345678901234567890123456789012345678901234567890123; i=$((i+1)); done; echo done >/dev/shm/done; until [ -e /dev/shm/go ]; do sleep 0.05; done; echo after; sleep 1000")
	client.Eventually(t, "the flood has ended", func() bool { return c.Sh("cat /dev/shm/done 2>/dev/null; true") == "done\n" })
	// What is in the pipe when the log is opened again is less than the size limit.
	// 6,000 records of some 110 bytes are ten seconds' worth; less one for the burst, and what
	// is in the pipe and in the shim's hands when the container has written its last line.
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("a container wrote 6,000 lines in %s; log_limits has 64 KiB a second", took)
	}
	text, err := os.ReadFile(c.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(text); n > 201<<10 || !strings.Contains(string(text[max(0, n-200):]), "[berth] this log has met its size limit") {
		t.Errorf("the log has %d bytes and ends with %q", n, text[max(0, n-200):])
	}
	if err := os.Rename(c.LogFile(), c.LogFile()+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Runtime.ReopenContainerLog(within(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.Sh("touch /dev/shm/go")
	client.Eventually(t, "the log takes lines again", func() bool {
		text, err := os.ReadFile(c.LogFile())
		return err == nil && strings.HasSuffix(string(text), "stdout F after\n")
	})
}
