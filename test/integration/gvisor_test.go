package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// gvisorNode starts a node whose handler gvisor is runsc on the platform systrap, which
// needs no KVM.
func gvisorNode(t *testing.T) *suite {
	t.Helper()
	shim := os.Getenv("BERTH_TEST_RUNSC_SHIM") // one that goes on when it may not lower its score
	if shim == "" {
		if capMask(t, os.Getpid(), "CapEff")&(1<<unix.CAP_SYS_RESOURCE) == 0 {
			t.Skip("gVisor's shim ends when it can't lower its oom_score_adj, for which CAP_SYS_RESOURCE is missing here")
		}
		shim = runtimeProgram(t, "containerd-shim-runsc-v1")
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "runsc", "k8s.io", "null-netns"), 0) }) // runsc keeps an empty network namespace there
	file := filepath.Join(dir, "runsc.toml")
	text := fmt.Sprintf("binary_name = %q\nroot = %q\n[runsc_config]\nplatform = \"systrap\"\n", runtimeProgram(t, "runsc"), filepath.Join(dir, "runsc"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	table := fmt.Sprintf(`gvisor={type="shim.v2",shim=%q,options={TypeUrl="io.containerd.runsc.v1.options",ConfigPath=%q}}`,
		shim, file)
	s := own(t, node.Options{Args: []string{"--runtime=" + table}})
	s.Handler = "gvisor"
	return s
}

// httpThrough gets a page of a pod's server by port-forward.
func httpThrough(t *testing.T, s *suite, pod, port, page string) string {
	t.Helper()
	_, at := newStreams(t, s).forward(paths[0], pod, port)
	var body []byte
	eventually(t, "the server in the pod answers", func() bool {
		r, err := http.Get("http://" + at[0] + page)
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err = io.ReadAll(io.LimitReader(r.Body, 1<<16))
		return err == nil && r.StatusCode == http.StatusOK
	})
	return string(body)
}

// TestGVisor: a pod of a class gvisor has gVisor's kernel, and all that a pod has otherwise.
func TestGVisor(t *testing.T) {
	s := gvisorNode(t)
	p := s.pod(t)
	c := p.Start(client.Shell("c", `echo out; echo err >&2; trap "exit 7" TERM; httpd -p 8080 -h /etc; while :; do sleep 0.1; done`))
	if got := c.Sh("cat /proc/version"); !strings.Contains(got, "gvisor") {
		host, _ := os.ReadFile("/proc/version")
		t.Errorf("/proc/version is %q; the host's is %q", got, host)
	}
	if _, err := c.Exec(within(t), c.ID, "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "ended with 3") {
		t.Errorf("an exec that exits with 3 gives %v", err)
	}
	if got, want := httpThrough(t, s, p.ID, "8080", "/hostname"), c.Sh("cat /etc/hostname"); got != want {
		t.Errorf("through a forwarded port /etc/hostname is %q, want %q", got, want)
	}
	stats, err := s.Runtime.ContainerStats(within(t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil || stats.GetStats().GetMemory().GetWorkingSetBytes().GetValue() == 0 || stats.GetStats().GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("statistics %v, %v", stats, err)
	}
	c.Stop(10e9)
	if st := c.Ended(); st.GetExitCode() != 7 {
		t.Errorf("status %v, want exit code 7", st)
	}
	log, err := os.ReadFile(c.LogFile())
	if err != nil || !strings.Contains(string(log), "stdout F out\n") || !strings.Contains(string(log), "stderr F err\n") {
		t.Errorf("log %q, %v", log, err)
	}
}
