package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

// races is how many commands are executed against ends of their container, of each
// kind; with BERTH_SOAK more.
func races() int {
	if os.Getenv("BERTH_SOAK") != "" {
		return 340
	}
	return 20
}

// TestExecRacesEnd executes commands in containers that end meanwhile, by a stop, by
// themselves, and by a graceful stop under probes. libcontainer starts three processes
// for each command; none of them may be left, since a zombie in the container's PID
// namespace keeps the container running for ever.
func TestExecRacesEnd(t *testing.T) {
	s := own(t, node.Options{Tmpfs: true})
	o := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}
	p := s.pod(t, namespaces(o))
	same := sameNamespaces(o)
	t.Run("stop", func(t *testing.T) {
		p.in(t).race("sleep 1000", same, func(c *ctr, i int) {
			time.Sleep(time.Duration(i%20) * 500 * time.Microsecond)
			c.Stop(0)
		})
	})
	t.Run("end", func(t *testing.T) {
		p.in(t).race("sleep 0.03", same, func(*ctr, int) {})
	})
	t.Run("graceful stop", func(t *testing.T) {
		p.in(t).race("trap 'sleep 0.01; exit 0' TERM; echo ready; while :; do sleep 0.005; done", same, func(c *ctr, i int) {
			c.says(" F ready\n") // a first process without a handler never gets the signal
			time.Sleep(time.Duration(i%10) * time.Millisecond)
			c.Stop(5 * time.Second)
		})
	})
	eventually(t, "the shim waited for all its children", func() bool { return len(zombiesOf(t, s.shim(t))) == 0 })
}

// race runs containers, four at a time, executes commands in each until one fails, and
// ends it meanwhile.
func (p *pod) race(script string, same func(*runtimeapi.ContainerConfig), end func(c *ctr, i int)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range races() {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			c := p.start(fmt.Sprint(strings.ReplaceAll(filepath.Base(p.T.Name()), "_", "-"), i), script, same)
			var executing sync.WaitGroup
			for range 2 {
				executing.Go(func() { c.execUntilEnd() })
			}
			end(c, i)
			executing.Wait()
			c.Ended()
			c.Remove()
		})
	}
	all.Wait()
}

// execUntilEnd executes commands until the container refuses one, as it has ended.
func (c *ctr) execUntilEnd() {
	for {
		_, err := c.execSync(5, "true")
		switch {
		case err == nil:
			continue
		case status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.NotFound:
			c.p.T.Errorf("a command against the end: %v", err)
		}
		return
	}
}

// zombiesOf are the children of a process that have ended and that it has not waited for.
func zombiesOf(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var dead []string
	for _, f := range files {
		list, _ := os.ReadFile(f) // a thread that has ended has none
		for child := range strings.FieldsSeq(string(list)) {
			stat, err := os.ReadFile("/proc/" + child + "/stat")
			if err == nil && strings.Contains(string(stat), ") Z ") {
				dead = append(dead, string(stat))
			}
		}
	}
	return dead
}
