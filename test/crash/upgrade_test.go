package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// olderReleases are the daemons of `make older`, by the commit that they were built of.
func olderReleases(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join("..", "..", "bin", "older", "*", "berthd"))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Skip("no bin/older/*/berthd: `make older` builds them, in a clone that has the history")
	}
	for i := range all {
		if all[i], err = filepath.Abs(all[i]); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestUpgradeAndBack: pods of an older release run on under today's, those of today's
// under the older one, and under today's again: no line of a log is lost, no exit, and
// every verb works on the pods of the other release.
func TestUpgradeAndBack(t *testing.T) {
	const pods = 20
	for _, older := range olderReleases(t) {
		t.Run(filepath.Base(filepath.Dir(older)), func(t *testing.T) {
			d := start(t, node.Options{Binary: older, Older: true})
			d.pull(busybox)
			u := &upgrade{daemon: d}
			for i := range pods {
				u.pods = append(u.pods, d.counts(fmt.Sprint("old-", i)))
			}
			u.step("upgrade", "")
			for i := range 5 {
				u.pods = append(u.pods, d.counts(fmt.Sprint("new-", i)))
			}
			u.step("downgrade", older)
			u.pods = append(u.pods, d.counts("older again"))
			u.step("second upgrade", "")
			for _, c := range u.pods {
				c.p.Remove()
			}
		})
	}
}

// upgrade is a node with a counter in each pod.
type upgrade struct {
	*daemon
	pods []*ctr
}

// step replaces the daemon. While there is none a container of the first and of the last
// pod ends.
func (u *upgrade) step(what, binary string) {
	u.t.Helper()
	first, last := u.leaver(u.pods[0]), u.leaver(u.pods[len(u.pods)-1])
	before := u.answers()
	u.kill()
	first.leave()
	last.leave()
	u.Use(binary)
	u.restart()
	if after := u.answers(); !slices.Equal(states(before, first, last), states(after, first, last)) {
		u.t.Errorf("%s: pods and containers are\n%s\nwere\n%s", what, strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	first.left(what)
	last.left(what)
	for i, c := range u.pods {
		c.stillRuns()
		if got, want := strings.TrimSpace(c.Sh(fmt.Sprint("echo ", i))), fmt.Sprint(i); got != want {
			u.t.Errorf("%s: exec in pod %d says %q, want %q", what, i, got, want)
		}
		n := c.lines()
		eventually(u.t, "the counter goes on", func() bool { return c.lines() > n })
	}
	u.verbs(what)
}

// verbs tries on the first and the last pod, which another release has made, what changes
// them, and ends the second and the last but one.
func (u *upgrade) verbs(what string) {
	u.t.Helper()
	for _, c := range []*ctr{u.pods[0], u.pods[len(u.pods)-1]} {
		r := &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.ID, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 100}}
		if _, err := u.Runtime.UpdateContainerResources(within(u.t), r); err != nil {
			u.t.Errorf("%s: update of a container: %v", what, err)
		}
		if _, err := u.Runtime.ReopenContainerLog(within(u.t), &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
			u.t.Errorf("%s: log opened again: %v", what, err)
		}
		if _, err := u.Runtime.ContainerStats(within(u.t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ID}); err != nil {
			u.t.Errorf("%s: stats: %v", what, err)
		}
		added := c.p.start("added by the "+what, "exec sleep 1000")
		added.Stop(0)
		added.Remove()
	}
	for _, i := range []int{1, len(u.pods) - 2} {
		u.pods[i].p.Stop()
		u.pods[i].p.Remove()
	}
	u.pods = slices.Delete(u.pods, len(u.pods)-2, len(u.pods)-1)
	u.pods = slices.Delete(u.pods, 1, 2)
}

// imageRef was the image's name by digest in older releases, and is its ID since.
var imageRef = regexp.MustCompile(`image_ref:"[^"]*"`)

// states are answers without those about containers that have ended meanwhile.
func states(answers []string, ended ...*leaver) (out []string) {
	for _, line := range answers {
		if !slices.ContainsFunc(ended, func(l *leaver) bool { return strings.Contains(line, l.ID) }) {
			out = append(out, imageRef.ReplaceAllString(line, ""))
		}
	}
	return out
}

// leaver is a container that ends with 7 as soon as a file is there.
type leaver struct {
	*ctr
	file string
}

func (u *upgrade) leaver(beside *ctr) *leaver {
	u.t.Helper()
	dir := u.t.TempDir()
	c := beside.p.create(client.Shell("leaver-"+filepath.Base(dir), "until [ -e /go/now ]; do sleep 0.02; done; exit 7", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: dir, ContainerPath: "/go"})
	}))
	c.start()
	_, c.pid = c.details()
	return &leaver{c, filepath.Join(dir, "now")}
}

// leave makes it end, and waits until its process is gone.
func (l *leaver) leave() {
	l.T.Helper()
	if err := os.WriteFile(l.file, nil, 0o644); err != nil {
		l.T.Fatal(err)
	}
	eventually(l.p.d.t, "the process that ends while there is no daemon is gone", func() bool {
		return errors.Is(unix.Kill(l.pid, 0), unix.ESRCH)
	})
}

func (l *leaver) left(what string) {
	t := l.p.d.t
	t.Helper()
	if st := l.Ended(); st.GetExitCode() != 7 {
		t.Errorf("%s: a container that ended meanwhile has the code %d, want 7", what, st.GetExitCode())
	}
	l.Remove()
}
