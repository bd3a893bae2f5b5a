package integration

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// killLoad is how many pods run while something is killed how often; with BERTH_SOAK as
// many as the field asks of a runtime.
func killLoad() (pods, kills int) {
	if os.Getenv("BERTH_SOAK") != "" {
		return 20, 50
	}
	return 3, 2
}

// victims are pods of a foreign runtime while their parts are killed.
type victims struct {
	t    *testing.T // with which the pods end
	s    *suite
	pods []*pod
	// foreign, own and daemon count the kills of foreign shims, of the shim that drives
	// them, and of the daemon; jobs the containers whose exit codes were asked for.
	foreign, own, daemon, jobs int
}

// run starts a pod with a container that stays.
func (v *victims) run(name string) *pod {
	v.t.Helper()
	p := v.s.pod(v.t, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = name })
	p.Start(client.Shell("stays", "exec sleep 100000"))
	return p
}

// job starts a container that ends with a code a moment later.
func (v *victims) job(t *testing.T, p *pod, code int) *client.Container {
	t.Helper()
	v.jobs++
	return p.Start(client.Shell(fmt.Sprintf("job-%d", v.jobs), fmt.Sprintf("usleep %d; echo done; exit %d", 1000*(v.jobs*37%400), code)))
}

// settled waits for the end of a container and wants its code and its output.
func (v *victims) settled(t *testing.T, c *client.Container, code int32) {
	t.Helper()
	var st *runtimeapi.ContainerStatus
	eventually(t, "the job has ended", func() bool {
		st = c.In(t).Status()
		return st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	if st.GetExitCode() != code {
		t.Errorf("a job that exits with %d has ended with %d, %s: %s", code, st.GetExitCode(), st.GetReason(), st.GetMessage())
	}
	if log, err := os.ReadFile(c.LogFile()); err != nil || !strings.Contains(string(log), "stdout F done\n") {
		t.Errorf("the log of a job is %q, %v", log, err)
	}
	c.In(t).Remove()
}

// killDaemon kills the daemon while a container ends.
func (v *victims) killDaemon(t *testing.T, p *pod, code int) {
	t.Helper()
	c := v.job(t, p, code)
	if err := v.s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := v.s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.daemon++
	v.s.resubscribe(t)
	v.settled(t, c, int32(code))
}

// killOwn kills the shim that drives the foreign ones while a container ends.
func (v *victims) killOwn(t *testing.T, p *pod, code int) {
	t.Helper()
	c := v.job(t, p, code)
	var dead int
	eventually(t, "there is a shim", func() (ok bool) {
		var err error
		dead, err = v.s.findShim()
		return err == nil
	})
	if err := unix.Kill(dead, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	v.own++
	v.settled(t, c, int32(code))
	eventually(t, "another shim has taken over", func() bool {
		pid, err := v.s.findShim()
		return err == nil && pid != dead
	})
}

// killForeign kills the foreign shim of a pod: its containers end with a code that tells of
// a kill, the pod is not ready, and can be removed.
func (v *victims) killForeign(t *testing.T, i int) {
	t.Helper()
	p := v.pods[i]
	if err := unix.Kill(p.foreignShim(t, v.s), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	v.foreign++
	eventually(t, "the pod is not ready", func() bool {
		return p.in(t).Status().GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	for _, c := range p.in(t).Containers() {
		var st *runtimeapi.ContainerStatus
		eventually(t, "the containers of the pod have ended", func() bool {
			answer, err := v.s.Runtime.ContainerStatus(within(t), &runtimeapi.ContainerStatusRequest{ContainerId: c.GetId()})
			if err != nil {
				t.Fatal(err)
			}
			st = answer.GetStatus()
			return st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
		})
		if st.GetExitCode() != 137 {
			t.Errorf("a container whose shim was killed has ended with %d, %s", st.GetExitCode(), st.GetReason())
		}
	}
	p.in(t).End()
	v.pods[i] = v.run(fmt.Sprintf("heir-%d", v.foreign))
}

// TestForeignRuntimeUnderKills: the daemon, the shim that drives the foreign ones, and foreign
// shims are killed by turns while pods of theirs run. No exit code and no line of a log is
// lost; what is left at the end the node's own test finds (processes, mounts, cgroups, bundles,
// sockets).
func TestForeignRuntimeUnderKills(t *testing.T) {
	v := &victims{t: t, s: runcNode(t, "runc", "")}
	count, kills := killLoad()
	began := time.Now()
	v.pods = make([]*pod, count)
	for i := range v.pods {
		v.pods[i] = v.run(fmt.Sprintf("victim-%d", i))
	}
	t.Logf("%d pods run after %v", count, time.Since(began).Round(time.Millisecond))
	until, bounded := t.Deadline() // of go test
	for k := range kills {
		if bounded && time.Until(until) < 3*time.Minute {
			t.Logf("%d of %d rounds were done in the time given", k, kills)
			break
		}
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			p := v.pods[k%count].in(t)
			v.killDaemon(t, p, 1+k%100)
			v.killOwn(t, p, 1+(k+50)%100)
			v.killForeign(t, (k+1)%count)
		})
		if t.Failed() {
			break
		}
	}
	var ended sync.WaitGroup
	for _, p := range v.pods {
		ended.Go(func() { p.in(t).End() })
	}
	ended.Wait()
	t.Logf("after %v: killed the daemon %d times, berth-shim-v2 %d times, foreign shims %d times; %d exit codes asked for",
		time.Since(began).Round(time.Second), v.daemon, v.own, v.foreign, v.jobs)
}
