package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/idmap"
	"berth/oci/shim/pause"
	"berth/oci/shimapi"
)

// stopGrace is how long a process may take to die of SIGKILL. After that something is wrong
// with the machine, and the call fails.
const stopGrace = 10 * time.Second

// pod is the pause process of a pod.
type pod struct {
	recorder
	id, netns string
	cgroup    string        // of the sandbox alone; "" after a handover: the daemon removes it
	ready     chan struct{} // closed when run has ended, well or not
	failed    bool          // run failed: there is no process; not read before ready
	process   process       // not read before ready
	pid       int           // not read before ready
	done      chan struct{} // closed when the exit is recorded
	unbind    sync.Mutex    // calls that stop the same pod may overlap
	tracers   tracers
	sandbox   atomic.Pointer[sandbox] // nil: the runtime is the built-in one
}

// pods carries out the verbs of pods.
type pods struct {
	registry *registry
	hub      *hub
	pauses   *pause.Launcher
	bootID   string
	foreigns foreigns
}

func (ps *pods) newPod(id, dir, netns string) *pod {
	return &pod{recorder: recorder{hub: ps.hub, dir: dir}, id: id, netns: netns, ready: make(chan struct{}), done: make(chan struct{})}
}

// isMade reports whether run has ended well.
func (p *pod) isMade() bool { return isClosed(p.ready) && !p.failed }

func (ps *pods) run(c *call, r shimapi.RunPodRequest) (any, error) {
	config, err := pauseConfig(r)
	if err != nil {
		return nil, err
	}
	p := ps.newPod(r.ID, r.Dir, r.NetNSPath)
	if err := claim(ps.registry, ps.registry.pods, r.ID, p); err != nil {
		return nil, err
	}
	defer close(p.ready)
	began, err := ps.startPause(p, config, r, c.stages)
	if err != nil {
		p.failed = true
		drop(ps.registry, ps.registry.pods, r.ID)
		return nil, err
	}
	onEnd(p.process, p.supervise)
	return shimapi.RunPodResponse{PID: p.pid, StartTime: began}, nil
}

func (ps *pods) startPause(p *pod, config pause.Config, r shimapi.RunPodRequest, st *stages) (began uint64, err error) {
	end := st.begin("cgroup")
	if err := setPodLimits(r.Limits); err != nil {
		return 0, err
	}
	if !r.Systemd {
		p.cgroup = podCgroupDir(r.CgroupPath)
	}
	if p.cgroup != "" {
		if config.Cgroup, err = makePodCgroup(p.cgroup); err != nil {
			return 0, err
		}
	}
	if config.Cgroup != nil {
		defer config.Cgroup.Close()
	}
	end()
	end = st.begin("pause process")
	proc, err := ps.pauses.Start(config, func(pid int) (err error) {
		p.pid = pid
		if began, err = shimapi.StartTime(pid); err == nil {
			p.firstRecord(ps.bootID, began)
		}
		return err
	})
	end()
	if errors.Is(err, pause.ErrSysctl) {
		return 0, fault(shimapi.KindInvalid, "pod %s: %w", r.ID, err)
	}
	if err != nil {
		return 0, fault(shimapi.KindStartFailed, "pod %s: %w", r.ID, err)
	}
	p.process = newStarted(proc, proc.Pid)
	end = st.begin("network namespace")
	err = prepare(proc.Pid, r)
	end()
	if err != nil {
		return 0, errors.Join(err, terminate(p.process))
	}
	p.publish(shimapi.EventStarted)
	return began, nil
}

// firstRecord writes down that the pause process is there, before anybody is told: should
// this shim die next, the process is found by it.
func (p *pod) firstRecord(bootID string, began uint64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record = shimapi.Record{
		Version: recordVersion, ID: p.id, Status: shimapi.StatusRunning, BootID: bootID,
		PID: p.pid, StartTime: began, CreatedAt: now, StartedAt: now,
	}
	p.save()
}

// prepare sets the OOM score of a pause process that runs, gives it its scope, and mounts
// its network namespace at NetNSPath. On an error nothing stays mounted.
func prepare(pid int, r shimapi.RunPodRequest) error {
	if err := adjustOOMScore(pid, r.OOMScoreAdj); err != nil {
		return err
	}
	if r.Systemd && r.CgroupPath != "" {
		if err := startPauseScope(r.CgroupPath, pid); err != nil {
			return err
		}
	}
	if r.NewNet && r.NetNSPath != "" {
		return bindNetNS(pid, r.NetNSPath)
	}
	return nil
}

// supervise records the end of a pause process. It ends with the process.
func (p *pod) supervise() {
	exit := p.process.wait().ExitStatus
	p.change(shimapi.EventPodExited, func(rec *shimapi.Record) { setExit(rec, exit) })
	close(p.done)
}

func (ps *pods) stop(_ *call, r shimapi.IDRequest) (any, error) {
	p, ok := ps.registry.pod(r.ID)
	if !ok {
		return nil, nil
	}
	return nil, ps.end(p)
}

// end ends the foreign shim of a pod, if it has one, and its pause process.
func (ps *pods) end(p *pod) error {
	<-p.ready
	if b := p.sandbox.Load(); b != nil {
		if err := ps.foreigns.end(b); err != nil {
			return fmt.Errorf("end the foreign shim: %w", err)
		}
	}
	return p.stop()
}

func (p *pod) stop() error {
	<-p.ready
	if p.failed {
		return nil
	}
	if err := p.process.signal(unix.SIGKILL); err != nil && !isGone(err) {
		return fmt.Errorf("kill pause: %w", err)
	}
	select {
	case <-p.done:
	case <-time.After(stopGrace):
		return fault(shimapi.KindInternal, "the pause of pod %s does not die of SIGKILL", p.id)
	}
	p.unbind.Lock()
	defer p.unbind.Unlock()
	return errors.Join(unbindNetNS(p.netns), p.removeCgroup())
}

// removeCgroup removes what podCgroup made. The daemon does that too, for a shim that died;
// but one of an older release does not know of it, and could not remove the one above.
func (p *pod) removeCgroup() error {
	if p.cgroup == "" {
		return nil
	}
	err := os.Remove(p.cgroup)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // gone, or used by another
	}
	return fmt.Errorf("cgroup of the pod: %w", err)
}

func (ps *pods) remove(_ *call, r shimapi.IDRequest) (any, error) {
	p, ok := ps.registry.pod(r.ID)
	if !ok {
		return nil, nil
	}
	if err := ps.end(p); err != nil {
		return nil, err
	}
	ps.hub.forget(r.ID)
	drop(ps.registry, ps.registry.pods, r.ID)
	return nil, nil
}

// checkPauseScope checks the scope that systemd is to make for a pause process. Where a
// sandbox container stands for the pod, its pause has none.
func checkPauseScope(r shimapi.RunPodRequest) error {
	if !r.Systemd || r.CgroupPath == "" {
		return nil
	}
	return checkCgroupPath(r.CgroupPath, true)
}

// pauseConfig checks the request and converts it for package pause.
func pauseConfig(r shimapi.RunPodRequest) (pause.Config, error) {
	c := pause.Config{Hostname: r.Hostname, Loopback: r.NewNet, Sysctls: map[string]string{}}
	for flag, wanted := range map[uintptr]bool{
		unix.CLONE_NEWNET: r.NewNet, unix.CLONE_NEWIPC: r.NewIPC, unix.CLONE_NEWUTS: r.NewUTS,
		unix.CLONE_NEWPID: r.NewPID, unix.CLONE_NEWUSER: len(r.UIDMaps)+len(r.GIDMaps) > 0,
	} {
		if wanted {
			c.Cloneflags |= flag
		}
	}
	if r.ID == "" || r.Dir == "" {
		return c, fault(shimapi.KindInvalid, "a pod needs an ID and a directory")
	}
	if err := checkPauseScope(r); err != nil {
		return c, fault(shimapi.KindInvalid, "%w", err)
	}
	if r.Hostname != "" && !r.NewUTS {
		return c, fault(shimapi.KindInvalid, "host name %q would be the host's: the pod has no UTS namespace of its own", r.Hostname)
	}
	c.UIDMaps, c.GIDMaps = idmap.SysProc(r.UIDMaps), idmap.SysProc(r.GIDMaps)
	user := pauseUser(r)
	c.UID, c.GID, c.Groups = user.UID, user.GID, user.Groups
	c.AppArmor, c.SELinux = r.AppArmor, r.SELinux
	for name, value := range r.Sysctls {
		path, err := shimapi.SysctlPath(name)
		if err == nil {
			err = namespaced(path, r)
		}
		if err != nil {
			return c, fault(shimapi.KindInvalid, "%w", err)
		}
		c.Sysctls[path] = value
	}
	return c, nil
}

func pauseUser(r shimapi.RunPodRequest) shimapi.PauseUser {
	if r.User != nil {
		return *r.User
	}
	return shimapi.PauseUser{UID: mappedOrRoot(r.UIDMaps), GID: mappedOrRoot(r.GIDMaps)}
}

// mappedOrRoot is the usual ID of pause processes if the user namespace maps it, else 0.
func mappedOrRoot(maps []shimapi.IDMap) uint32 {
	for _, m := range maps {
		if shimapi.PauseID >= m.ContainerID && shimapi.PauseID-m.ContainerID < m.Size {
			return shimapi.PauseID
		}
	}
	if len(maps) > 0 {
		return 0
	}
	return shimapi.PauseID
}

// namespaced returns an error for a sysctl that would change the host.
func namespaced(path string, r shimapi.RunPodRequest) error {
	for _, class := range []struct {
		prefix, namespace string
		own               bool
	}{
		{"net/", "network", r.NewNet},
		{"kernel/shm", "IPC", r.NewIPC},
		{"kernel/msg", "IPC", r.NewIPC},
		{"kernel/sem", "IPC", r.NewIPC},
		{"fs/mqueue/", "IPC", r.NewIPC},
		{"kernel/domainname", "UTS", r.NewUTS},
		{"kernel/hostname", "UTS", r.NewUTS},
	} {
		if strings.HasPrefix(path, class.prefix) {
			if class.own {
				return nil
			}
			return fmt.Errorf("sysctl %s would change the host: the pod has no %s namespace of its own", path, class.namespace)
		}
	}
	return fmt.Errorf("sysctl %s belongs to no namespace, it would change the host", path)
}

// podCgroupDir is the directory of a pod sandbox's cgroup; "" if none is named, or if the v1
// hierarchy is not mounted in which somebody would look for it.
func podCgroupDir(path string) string {
	if path == "" {
		return ""
	}
	root := unifiedRoot
	if !unified() {
		root = filepath.Join(unifiedRoot, shimapi.SandboxHierarchy)
		if _, err := os.Stat(root); err != nil {
			return ""
		}
	}
	return filepath.Join(root, filepath.Clean("/"+path))
}

// makePodCgroup makes the cgroup of a pod sandbox, and on v2 opens it, for pause to be
// cloned into; nil on v1.
func makePodCgroup(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup of the pod: %w", err)
	}
	if !unified() {
		return nil, nil
	}
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroup of the pod: %w", err)
	}
	return f, nil
}

// adjustOOMScore sets oom_score_adj. Lowering it needs CAP_SYS_RESOURCE; if the shim lacks
// that, the pause process keeps the shim's own value. So it does where an SELinux policy
// keeps the shim from files of a process that has the label of containers.
func adjustOOMScore(pid, score int) error {
	err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(score)), 0)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("oom_score_adj of pause: %w", err)
	}
	return nil
}

// bindNetNS bind-mounts the network namespace of a process at path.
func bindNetNS(pid int, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("pin network namespace: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("pin network namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount("/proc/"+strconv.Itoa(pid)+"/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("pin network namespace at %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// unbindNetNS undoes bindNetNS, also an incomplete one. It can be repeated.
func unbindNetNS(path string) error {
	if path == "" {
		return nil
	}
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin network namespace: %w", err)
	}
	return nil
}
