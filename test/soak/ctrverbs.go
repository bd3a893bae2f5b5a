package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/tally"
)

// patient is a program that says what it reads from /in and ends with a code on SIGTERM.
// It waits in a read of the shell, without a process for it.
const patient = `trap 'exit %d' TERM; mkfifo /in; exec 3<>/in; : >/ready; while :; do read -r l <&3 && echo "$l"; done`

// newContainer chooses what a container does.
func (w *worker) newContainer(p *pod) (*container, *runtimeapi.ContainerConfig) {
	p.made++
	c := &container{
		name: fmt.Sprint("c", p.made), pod: p, code: w.rng.Int32N(120) + 3, brief: w.rng.IntN(3) == 0,
		may: []fate{{state: created}}, bothDead: w.bothDead.Load(),
	}
	script := fmt.Sprintf(patient, c.code)
	if c.brief {
		script = fmt.Sprintf("exit %d", c.code)
	}
	config := client.Shell(c.name, script)
	config.Labels = named(w.owner(), p.name+"-"+c.name)
	return c, config
}

// createContainer creates one; cut short, the call is repeated, and makes one in all.
func (w *worker) createContainer(ctx context.Context, p *pod) {
	if !p.hasRoom() {
		return
	}
	c, config := w.newContainer(p)
	request := &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}
	create := func(ctx context.Context) error {
		id, err := w.cri.CreateContainer(ctx, request)
		if err == nil {
			c.id = id
		}
		return err
	}
	o, err := w.until(ctx, "create", create)
	if o == tally.Wrong && status.Code(err) == codes.AlreadyExists && w.lostSince(c.bothDead) {
		w.Count("create", tally.Refused)
		o, err = w.findContainer(ctx, c, config.GetLabels())
	}
	c.note("create: %s %v", o, err)
	switch {
	case o == tally.Wrong && w.lostSince(p.bothDead) && status.Code(err) == codes.FailedPrecondition:
		w.Count("create", tally.Refused)
		w.look(ctx, p)
	case o == tally.Wrong:
		w.wrong("create", err, c.tell()+"\n"+p.tell())
	case o == tally.Fine:
		p.containers = append(p.containers, c)
		w.observe(ctx, c)
	}
}

// findContainer looks for the one that was made by a call that was cut short and has ended
// with berthd and the shim since, so that a retry is refused, as it must be.
func (w *worker) findContainer(ctx context.Context, c *container, labels map[string]string) (tally.Outcome, error) {
	return w.until(ctx, "list", func(ctx context.Context) error {
		r, err := w.cri.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
			Filter: &runtimeapi.ContainerFilter{LabelSelector: labels},
		})
		if err == nil && len(r.GetContainers()) != 1 {
			err = fmt.Errorf("it exists and %d are listed", len(r.GetContainers()))
		}
		if err == nil {
			c.id = r.GetContainers()[0].GetId()
		}
		return err
	})
}

// observe asks for a container's status and holds it to what it may be.
func (w *worker) observe(ctx context.Context, c *container) {
	var st *runtimeapi.ContainerStatus
	o, err := w.until(ctx, "status", func(ctx context.Context) (err error) {
		st, err = w.cri.ContainerStatus(ctx, c.id)
		return err
	})
	if o == tally.Wrong && status.Code(err) == codes.NotFound {
		w.Count("status", tally.Refused)
		st, o = nil, tally.Fine
	}
	if o == tally.Wrong {
		w.wrong("status", err, c.tell())
	}
	if o != tally.Fine {
		return
	}
	c.note("seen: %v", fateOf(st))
	if why := c.see(st, w.lostSince(c.bothDead)); why != "" {
		w.Problem("status of a container: %s\n%s", why, c.tell())
	}
	if st == nil {
		c.pod.forget(c)
		return
	}
	if c.is(created) || c.is(running) {
		w.seeShares(c, st.GetResources().GetLinux().GetCpuShares())
	}
}

// refused judges a call that failed otherwise than by a kill: that is right when the
// container turns out to be in a state in which the call can't succeed.
func (w *worker) refused(ctx context.Context, kind string, c *container, err error, possible runtimeapi.ContainerState) {
	w.observe(ctx, c)
	code := status.Code(err)
	if c.is(possible) || code != codes.FailedPrecondition && code != codes.NotFound {
		w.wrong(kind, err, c.tell())
		return
	}
	w.Count(kind, tally.Refused)
}

// startContainer starts one that is created.
func (w *worker) startContainer(ctx context.Context, p *pod) {
	c := w.pick(p, func(c *container) bool { return c.can(created) })
	if c == nil || !p.ready || p.stopped {
		return
	}
	if c.brief {
		c.began(c.code)
	}
	wasKnown := c.is(created)
	c.may = append(c.may, fate{state: running})
	o, err := w.call(ctx, "start", func(ctx context.Context) error { return w.cri.StartContainer(ctx, c.id) })
	c.note("start: %s %v", o, err)
	switch {
	case o == tally.Fine:
		c.may = []fate{{state: running}}
	case o == tally.Wrong && status.Code(err) == codes.FailedPrecondition && (!wasKnown || w.lostSince(c.bothDead)):
		// A start that was cut short had succeeded, or the pod is lost and its containers are being ended.
		w.Count("start", tally.Refused)
	case o == tally.Wrong:
		w.refused(ctx, "start", c, err, created)
		return
	}
	w.observe(ctx, c)
}

// stopContainer stops one, by its signal or at once.
func (w *worker) stopContainer(ctx context.Context, p *pod) {
	c := w.pick(p, func(c *container) bool { return c.can(running) || c.can(created) || w.rng.IntN(10) == 0 })
	if c == nil {
		return
	}
	grace := w.grace(c)
	o, err := w.twice(ctx, "stop", func(ctx context.Context) error { return w.cri.StopContainer(ctx, c.id, grace) })
	c.note("stop within %v: %s %v", grace, o, err)
	switch o {
	case tally.Wrong:
		w.wrong("stop", err, c.tell())
	case tally.Fine:
		w.observe(ctx, c)
		if c.is(running) || c.is(created) {
			w.Problem("a container runs after its stop\n%s", c.tell())
		}
	default:
		w.observe(ctx, c)
	}
}

// grace chooses how a container is stopped, and notes how it may end by that.
func (w *worker) grace(c *container) time.Duration {
	switch {
	case w.rng.IntN(3) == 0 || c.can(created):
		c.began(killedCode)
		return 0
	case c.trapped:
		c.began(c.code)
		return patience / 2 // it must end by its signal
	default:
		// Its program may not have got as far as its trap, and SIGTERM ends it: process 1 of
		// the pod, which the kernel would spare, is the pause.
		c.began(c.code, termCode, killedCode)
		return time.Second
	}
}

// removeContainer removes one, running or not, until it is gone.
func (w *worker) removeContainer(ctx context.Context, p *pod) {
	c := w.pick(p, func(c *container) bool { return !c.can(running) || w.rng.IntN(4) == 0 })
	if c == nil {
		return
	}
	c.began(killedCode)
	c.mayGo = true
	o, err := w.twice(ctx, "remove", func(ctx context.Context) error { return w.cri.RemoveContainer(ctx, c.id) })
	c.note("remove: %s %v", o, err)
	switch o {
	case tally.Wrong:
		w.wrong("remove", err, c.tell())
		return
	case tally.Fine:
		c.may = []fate{{state: gone}}
	}
	w.observe(ctx, c)
	if o == tally.Fine && slices.Contains(p.containers, c) {
		w.Problem("a container is there after its removal\n%s", c.tell())
	}
}

// living is one of the pod's containers that is known to run its long program.
func (w *worker) living(p *pod) *container {
	return w.pick(p, func(c *container) bool { return c.is(running) && !c.brief })
}

// executes makes an exec whose output and code are known. It is false when there was none
// to have.
func (w *worker) executes(ctx context.Context, kind string, c *container, script, want string) bool {
	code := w.rng.Int32N(100)
	var r *runtimeapi.ExecSyncResponse
	o, err := w.call(ctx, kind, func(ctx context.Context) (err error) {
		r, err = w.cri.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
			ContainerId: c.id, Cmd: []string{"sh", "-c", fmt.Sprintf("%s; exit %d", script, code)}, Timeout: int64(patience / time.Second),
		})
		return err
	})
	c.note("%s: %s %v", kind, o, err)
	if o == tally.Wrong {
		w.refused(ctx, kind, c, err, running)
	}
	if o != tally.Fine {
		return false
	}
	if string(r.GetStdout()) != want || r.GetExitCode() != code || len(r.GetStderr()) > 0 {
		// An exec that its container's end has killed is one of a container that has ended.
		w.observe(ctx, c)
		if c.is(running) || r.GetExitCode() != killedCode {
			w.Problem("an exec ended with %d, %q and %q, must end with %d and %q\n%s", r.GetExitCode(), r.GetStdout(), r.GetStderr(), code, want, c.tell())
		}
		return false
	}
	return true
}

// execute waits until the program is past its beginning, and says a word.
func (w *worker) execute(ctx context.Context, p *pod) {
	if c := w.living(p); c != nil && w.executes(ctx, "exec", c, "while [ ! -e /ready ]; do usleep 1000; done; echo said", "said\n") {
		c.trapped = true
	}
}

// echo has the program write a line, which must be in its log, after those before it.
func (w *worker) echo(ctx context.Context, p *pod) {
	c := w.living(p)
	if c == nil || !c.trapped {
		return
	}
	line := fmt.Sprintf("line-%d-%d", len(c.log), w.rng.IntN(1000))
	if !w.executes(ctx, "echo", c, "echo "+line+" >/in", "") {
		c.logOff = true
		return
	}
	c.log = append(c.log, line)
	if c.logOff || w.lostSince(c.bothDead) || !c.is(running) {
		return
	}
	w.seeLog(c)
}

// seeLog waits until the last line of a container's log is there, and compares the log
// with what must be in it, also where its shim was killed. With berthd dead at the same time
// nobody holds the container's output any more.
func (w *worker) seeLog(c *container) {
	log := filepath.Join(c.pod.config.GetLogDirectory(), c.name+".log")
	last := c.log[len(c.log)-1]
	var text []byte
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if text, err = os.ReadFile(log); err == nil && strings.Contains(string(text), last+"\n") {
			break
		}
		if w.lostSince(c.bothDead) {
			return
		}
	}
	if missing := linesMissing(string(text), c.log); err != nil || missing != "" {
		w.Problem("the log lacks %q: %v\n%s\n%s", missing, err, text, c.tell())
	}
}

// linesMissing is the first of the lines that is not in a log, once and in order; "" is
// none.
func linesMissing(log string, want []string) string {
	lines := slices.Collect(strings.Lines(log))
	for i, w := range want {
		if i >= len(lines) || !strings.HasSuffix(lines[i], " stdout F "+w+"\n") {
			return w
		}
	}
	return ""
}

// rotate moves a container's log away and has it opened anew.
func (w *worker) rotate(ctx context.Context, p *pod) {
	c := w.living(p)
	if c == nil || len(c.log) == 0 {
		return
	}
	log := filepath.Join(p.config.GetLogDirectory(), c.name+".log")
	if err := os.Rename(log, log+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.Problem("rotate the log: %v\n%s", err, c.tell())
	}
	o, err := w.until(ctx, "reopen log", func(ctx context.Context) error {
		_, err := w.cri.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
		return err
	})
	c.note("reopen log: %s %v", o, err)
	switch o {
	case tally.Wrong:
		w.refused(ctx, "reopen log", c, err, running)
	case tally.Fine:
		c.log = nil
		if _, err := os.Stat(log); err != nil {
			w.Problem("the log was opened anew and is not there: %v\n%s", err, c.tell())
		}
	}
}

// attach asks for a stream, which nobody connects to: it must be forgotten.
func (w *worker) attach(ctx context.Context, p *pod) {
	c := w.living(p)
	if c == nil {
		return
	}
	o, err := w.call(ctx, "attach", func(ctx context.Context) error {
		r, err := w.cri.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: c.id, Stdout: true, Stderr: true})
		if err == nil && r.GetUrl() == "" {
			return errors.New("no URL")
		}
		return err
	})
	if o == tally.Wrong {
		w.refused(ctx, "attach", c, err, running)
	}
}

// update changes the CPU shares of a container.
func (w *worker) update(ctx context.Context, p *pod) {
	c := w.pick(p, func(c *container) bool { return c.is(running) || c.is(created) })
	if c == nil {
		return
	}
	shares := w.rng.Int64N(1000) + 2
	c.shares = append(c.shares, shares)
	o, err := w.call(ctx, "update", func(ctx context.Context) error {
		_, err := w.cri.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: c.id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: shares},
		})
		return err
	})
	c.note("update to %d shares: %s %v", shares, o, err)
	switch o {
	case tally.Wrong:
		was := c.may
		w.refused(ctx, "update", c, err, was[0].state)
		return
	case tally.Fine:
		c.shares = []int64{shares}
	}
	w.observe(ctx, c)
}

// seeShares compares the CPU shares of a container with those asked for. The value that
// was not asked for is anything at first, and then stays.
func (w *worker) seeShares(c *container, got int64) {
	if len(c.shares) > 0 && !slices.Contains(c.shares, got) {
		w.Problem("a container has %d CPU shares, must have one of %v\n%s", got, c.shares, c.tell())
	}
	c.shares = []int64{got}
}

// statistics asks for those of a container, of its pod, and of all that the client has.
func (w *worker) statistics(ctx context.Context, p *pod) {
	c := w.living(p)
	if c == nil {
		return
	}
	var one *runtimeapi.ContainerStatsResponse
	var pods *runtimeapi.ListPodSandboxStatsResponse
	o, err := w.until(ctx, "stats", func(ctx context.Context) (err error) {
		if one, err = w.cri.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.id}); err != nil {
			return err
		}
		pods, err = w.cri.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{
			Filter: &runtimeapi.PodSandboxStatsFilter{LabelSelector: labels(w.owner())},
		})
		return err
	})
	if o == tally.Wrong {
		w.refused(ctx, "stats", c, err, running)
	}
	if o != tally.Fine {
		return
	}
	if one.GetStats().GetAttributes().GetId() != c.id || one.GetStats().GetMemory().GetUsageBytes().GetValue() == 0 {
		if w.observe(ctx, c); c.is(running) {
			w.Problem("a running container has the statistics %v\n%s", one.GetStats(), c.tell())
		}
	}
	known := slices.ContainsFunc(pods.GetStats(), func(s *runtimeapi.PodSandboxStats) bool { return s.GetAttributes().GetId() == p.id })
	if !known && p.ready && !p.stopped && !w.lostSince(p.bothDead) {
		w.Problem("a ready pod has no statistics\n%s", p.tell())
	}
}
