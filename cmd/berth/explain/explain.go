package explain

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Explain looks at the pod or container that what names: an ID, the beginning of
// one, or a name. The error wraps [ErrNotFound] or [ErrAmbiguous].
func (ps *Pods) Explain(what string) (*Report, error) {
	p, c, err := ps.find(what)
	if err != nil {
		return nil, err
	}
	if c != nil {
		return c.explain(), nil
	}
	return p.explain(), nil
}

// subject is the container or pod that is looked at, with its living processes.
type subject struct {
	pod   *pod
	ctr   *container // nil: the pod itself
	proc  process    // the first process; gone: pid 0
	pause process
}

func (c *container) subject() subject {
	s := subject{pod: c.pod, ctr: c, pause: c.pod.pauseProcess()}
	if !c.ended() {
		s.proc = livingProcess(c.fact.PID, c.fact.StartTime)
	}
	return s
}

func (p *pod) subject() subject {
	pause := p.pauseProcess()
	return subject{pod: p, proc: pause, pause: pause}
}

func (c *container) explain() *Report {
	s := c.subject()
	r := &Report{Kind: "container", ID: c.ID, Name: c.name(), Pod: c.pod.name(), places: c.places(s.proc.alive())}
	processLayer{s, r.section("process")}.tell()
	filesystemLayer{s, r.section("filesystem")}.tell()
	namespaceLayer{s, r.section("namespaces")}.tell()
	cgroupLayer{s, r.section("cgroup")}.tell()
	securityLayer{s, r.section("security")}.tell()
	networkLayer{s, r.section("network")}.tell()
	return r.conclude()
}

func (c *container) places(alive bool) []place {
	all := []place{{"CONTAINER", c.dir}}
	for _, controller := range slices.Sorted(maps.Keys(c.fact.CgroupPaths)) {
		if alive && slices.Contains([]string{"", "cpu", "memory", "pids"}, controller) {
			all = append(all, place{"CGROUP" + strings.TrimSuffix("/"+controller, "/"), c.fact.CgroupPaths[controller]})
		}
	}
	return append(all, c.pod.places()...)
}

func (p *pod) explain() *Report {
	s := p.subject()
	r := &Report{Kind: "pod", ID: p.ID, Name: p.name(), places: p.places()}
	pauseLayer{s, r.section("process")}.tell()
	namespaceLayer{s, r.section("namespaces")}.tell()
	networkLayer{s, r.section("network")}.tell()
	p.summarize(r)
	return r.conclude()
}

func (p *pod) places() []place { return []place{{"POD", p.dir}, {"STATE", p.state}} }

func (p *pod) pauseProcess() process { return livingProcess(p.PausePID, p.PauseStart) }

// pauseLayer is the process layer of a pod.
type pauseLayer struct {
	subject
	*section
}

func (l pauseLayer) tell() {
	p := l.pod
	file := filepath.Join(p.dir, record.PodFile)
	l.fact("intent", file, "%s", p.Intent)
	if p.isForeign() {
		l.fact("runtime", file, "handler %s: %s", p.Handler, p.Runtime.Shim)
		if group := p.Runtime.ShimCgroup; group != "" {
			l.fact("shim's cgroup", file, "%s", group)
		}
		if p.hidden() && len(p.containers) > 0 {
			l.fact("hidden", file, "the runtime keeps the containers in a kernel or machine of its own; what follows is how that looks from here")
		}
	}
	switch {
	case l.pause.alive():
		l.fact("pause", l.pause.file("stat"), "runs as pid %d, below shim %s", p.PausePID, p.ShimID)
	case p.Intent == record.Stopped || p.Intent == record.Stopping:
		l.fact("pause", file, "gone; the pod was stopped")
		l.find(possible, "remove it, or let the kubelet make another", "the pod was stopped by its client")
	case p.BootID != bootID():
		l.fact("pause", file, "gone with another boot of the machine")
		l.find(certain, "the kubelet makes another one", "the machine was started again since the pod was made")
	default:
		l.fact("pause", file, "gone: pid %d does not run any more", p.PausePID)
		l.find(strong, "the kubelet makes another one; the kernel's log tells of a kill", "the pause process has ended, so the pod is not ready")
	}
}

// summarize adds a layer with a line for each container, and the strongest finding of each.
func (p *pod) summarize(r *Report) {
	layer := r.section("containers")
	for _, c := range p.containers {
		own := c.explain()
		layer.fact(c.name(), filepath.Join(c.dir, shimapi.RecordName), "%s, %.13s", c.state(), c.ID)
		if len(own.Findings) > 0 && own.Findings[0].Strength >= possible {
			f := own.Findings[0]
			f.Layer = "container " + c.name() + ", " + f.Layer
			r.Findings = append(r.Findings, f)
		}
	}
	if len(p.containers) == 0 {
		layer.fact("none", "", "no container was made in this pod, or all are removed")
	}
}

// state is a word and what belongs to it.
func (c *container) state() string {
	f := c.fact
	switch {
	case c.ended() && f.Reason != "":
		return fmt.Sprintf("exited with code %d, %s", f.ExitCode, f.Reason)
	case f.Status == shimapi.StatusStopped && f.OOMKilled:
		return fmt.Sprintf("exited with code %d, OOMKilled", f.ExitCode)
	case f.Status == shimapi.StatusStopped:
		return fmt.Sprintf("exited with code %d", f.ExitCode)
	case c.ended():
		return "exited, its code was lost"
	case f.Status == "":
		return "being made"
	}
	return string(f.Status)
}

// ended is derived as the daemon derives it, from the same facts.
func (c *container) ended() bool {
	return c.fact.Status == "stopped" || !c.LostAt.IsZero() || c.fact.BootID != "" && c.fact.BootID != bootID()
}
