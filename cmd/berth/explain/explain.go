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
		return ps.container(c), nil
	}
	return ps.podReport(p), nil
}

func (ps *Pods) container(c *container) *Report {
	l := ps.look(c)
	l.process()
	l.filesystem()
	l.namespaces()
	l.cgroup()
	l.security()
	l.network()
	return l.conclude()
}

func (ps *Pods) look(c *container) *look {
	l := &look{
		report: &Report{Kind: "container", ID: c.ID, Name: c.name(), Pod: c.pod.name()},
		pods:   ps, pod: c.pod, ctr: c, pause: c.pod.pauseProcess(),
	}
	if !c.ended() {
		l.proc = livingProcess(c.fact.PID, c.fact.StartTime)
	}
	l.report.places = append(l.report.places, place{"CONTAINER", c.dir})
	for _, controller := range slices.Sorted(maps.Keys(c.fact.CgroupPaths)) {
		if l.proc.alive() && slices.Contains([]string{"", "cpu", "memory", "pids"}, controller) {
			l.report.places = append(l.report.places, place{"CGROUP" + strings.TrimSuffix("/"+controller, "/"), c.fact.CgroupPaths[controller]})
		}
	}
	l.report.places = append(l.report.places, c.pod.places()...)
	return l
}

func (p *pod) places() []place { return []place{{"POD", p.dir}, {"STATE", p.state}} }

func (ps *Pods) podReport(p *pod) *Report {
	l := &look{report: &Report{Kind: "pod", ID: p.ID, Name: p.name()}, pods: ps, pod: p, pause: p.pauseProcess()}
	l.proc = l.pause
	l.report.places = p.places()
	l.sandbox()
	l.namespaces()
	l.network()
	l.containers()
	return l.conclude()
}

func (p *pod) pauseProcess() process { return livingProcess(p.PausePID, p.PauseStart) }

// sandbox is the process layer of a pod: its pause.
func (l *look) sandbox() {
	l.enter("process")
	p := l.pod
	file := filepath.Join(p.dir, record.PodFile)
	l.fact("intent", file, "%s", p.Intent)
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

// containers sums a pod up: one line each, and the strongest finding of any.
func (l *look) containers() {
	l.enter("containers")
	for _, c := range l.pod.containers {
		r := l.pods.container(c)
		l.fact(c.name(), filepath.Join(c.dir, shimapi.RecordName), "%s, %.13s", c.state(), c.ID)
		if len(r.Findings) > 0 && r.Findings[0].Strength >= possible {
			f := r.Findings[0]
			f.Layer = "container " + c.name() + ", " + f.Layer
			l.report.Findings = append(l.report.Findings, f)
		}
	}
	if len(l.pod.containers) == 0 {
		l.fact("none", "", "no container was made in this pod, or all are removed")
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
