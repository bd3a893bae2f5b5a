package sandbox

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// fakeShim speaks the wire of a shim (package shimapi) on a socket in the place where
// the client looks for shims. It holds records and no container: a pause process is a
// sleep, a container nothing. Its own process is a sleep as well, whose end is the
// shim's death.
type fakeShim struct {
	t       *testing.T
	id, dir string
	process *exec.Cmd
	lock    *os.File
	socket  *net.UnixListener

	mu         sync.Mutex
	pods       map[string]*fakePause
	containers map[string]*fakeContainer
	watchers   map[chan shimapi.Event]struct{}
	conns      map[*net.UnixConn]struct{}
	calls      []string // methods, in the order of their begin, without list, watch and the like
	creates    []shimapi.CreateRequest
	runs       []shimapi.RunPodRequest
	kills      []shimapi.KillRequest
	updates    []shimapi.UpdateRequest
	podUpdates []shimapi.UpdatePodRequest
	execs      []shimapi.ExecRequest
	groups     map[string]string // cgroups of the containers that are created next
	// hook is called before a method is carried out; its error is the answer.
	hook func(method, id string) *shimapi.Error
	// ignored signals do not end a container.
	ignored map[int]bool
	dead    bool
}

type fakePause struct {
	shimapi.Record
	dir     string
	process *exec.Cmd
}

type fakeContainer struct {
	shimapi.Record
	dir string
	// ended is closed with the end of the container.
	ended chan struct{}
}

// startFakeShim puts a shim of the version "test" into the state directory.
func startFakeShim(t *testing.T, state, id string) *fakeShim {
	t.Helper()
	f := &fakeShim{
		t: t, id: id, dir: filepath.Join(state, "shims", id), process: sleepProcess(t),
		pods: map[string]*fakePause{}, containers: map[string]*fakeContainer{},
		watchers: map[chan shimapi.Event]struct{}{}, conns: map[*net.UnixConn]struct{}{}, ignored: map[int]bool{},
	}
	var err error
	if err = os.MkdirAll(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if f.lock, err = os.Create(filepath.Join(f.dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	if f.socket, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(f.dir, "shim.sock")}); err != nil {
		t.Fatal(err)
	}
	hello := shimapi.HelloResponse{ID: id, PID: f.process.Process.Pid, Wire: shimapi.Version, Version: "test"}
	if err := atomicfile.WriteVolatile(filepath.Join(f.dir, "shim.json"), hello); err != nil {
		t.Fatal(err)
	}
	go f.serve()
	t.Cleanup(f.die)
	return f
}

func sleepProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endProcess(cmd) })
	return cmd
}

func endProcess(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// die ends the shim as a crash would: its connections break, then its process ends.
func (f *fakeShim) die() {
	f.mu.Lock()
	dead := f.dead
	f.dead = true
	conns := slices.Collect(maps.Keys(f.conns))
	f.mu.Unlock()
	if dead {
		return
	}
	_ = f.socket.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	_ = f.lock.Close()
	endProcess(f.process)
}

func (f *fakeShim) serve() {
	for {
		conn, err := f.socket.AcceptUnix()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[conn] = struct{}{}
		f.mu.Unlock()
		go func() {
			f.answer(conn)
			_ = conn.Close()
			f.mu.Lock()
			delete(f.conns, conn)
			f.mu.Unlock()
		}()
	}
}

func (f *fakeShim) answer(conn *net.UnixConn) {
	var req shimapi.Request
	files, err := shimapi.ReadFrame(conn, &req)
	if err != nil {
		return
	}
	defer shimapi.CloseFiles(files)
	var about struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(req.Body, &about) // some methods have no body
	if err := f.begin(req.Method, about.ID); err != nil {
		_ = shimapi.WriteFrame(conn, shimapi.Response{Error: err})
		return
	}
	switch req.Method {
	case shimapi.MethodWatch:
		f.watch(conn)
		return
	case shimapi.MethodExec, shimapi.MethodAttach:
		f.session(conn, req, about.ID, files)
		return
	}
	body, err := f.carryOut(req, about.ID)
	var told *shimapi.Error
	if errors.As(err, &told) {
		_ = shimapi.WriteFrame(conn, shimapi.Response{Error: told})
		return
	}
	data, _ := json.Marshal(body)
	_ = shimapi.WriteFrame(conn, shimapi.Response{Body: data})
}

// begin notes a call and asks the hook.
func (f *fakeShim) begin(method, id string) *shimapi.Error {
	f.mu.Lock()
	hook := f.hook
	switch method {
	case shimapi.MethodHello, shimapi.MethodList, shimapi.MethodWatch, shimapi.MethodHandoverState, shimapi.MethodShutdown:
	default:
		f.calls = append(f.calls, method)
	}
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(method, id)
}

func (f *fakeShim) carryOut(req shimapi.Request, id string) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch req.Method {
	case shimapi.MethodHello:
		return shimapi.HelloResponse{ID: f.id, PID: f.process.Process.Pid, Wire: shimapi.Version, Version: "test"}, nil
	case shimapi.MethodList:
		return f.list(), nil
	case shimapi.MethodRunPod:
		return f.runPod(req.Body)
	case shimapi.MethodStopPod:
		f.stopPod(id)
	case shimapi.MethodRemovePod:
		f.stopPod(id)
		delete(f.pods, id)
	case shimapi.MethodCreate:
		return f.create(req.Body)
	case shimapi.MethodStart:
		return nil, f.start(id)
	case shimapi.MethodKill:
		return nil, f.kill(req.Body)
	case shimapi.MethodDelete:
		f.end(id, 137, unix.SIGKILL)
		delete(f.containers, id)
	case shimapi.MethodUpdate:
		var r shimapi.UpdateRequest
		_ = json.Unmarshal(req.Body, &r)
		f.updates = append(f.updates, r)
	case shimapi.MethodUpdatePod:
		var r shimapi.UpdatePodRequest
		_ = json.Unmarshal(req.Body, &r)
		f.podUpdates = append(f.podUpdates, r)
	case shimapi.MethodReopen, shimapi.MethodResize:
		return nil, f.known(id)
	case shimapi.MethodShutdown:
		return nil, &shimapi.Error{Kind: shimapi.KindExists, Message: "it is the test's to end"}
	default:
		return nil, &shimapi.Error{Kind: shimapi.KindInvalid, Message: "unknown method " + req.Method}
	}
	return nil, nil
}

func (f *fakeShim) known(id string) error {
	if f.containers[id] == nil {
		return &shimapi.Error{Kind: shimapi.KindNotFound, Message: "no container " + id}
	}
	return nil
}

func (f *fakeShim) list() shimapi.ListResponse {
	var out shimapi.ListResponse
	for _, p := range f.pods {
		out.Pods = append(out.Pods, p.Record)
	}
	for _, c := range f.containers {
		out.Containers = append(out.Containers, c.Record)
	}
	return out
}

func (f *fakeShim) runPod(body json.RawMessage) (any, error) {
	var r shimapi.RunPodRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	f.runs = append(f.runs, r)
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		return nil, &shimapi.Error{Kind: shimapi.KindInternal, Message: err.Error()}
	}
	f.t.Cleanup(func() { endProcess(cmd) })
	start, err := shimapi.StartTime(cmd.Process.Pid)
	if err != nil {
		return nil, &shimapi.Error{Kind: shimapi.KindInternal, Message: err.Error()}
	}
	p := &fakePause{dir: r.Dir, process: cmd, Record: shimapi.Record{
		Version: shimapi.Version, ID: r.ID, Status: shimapi.StatusRunning, PID: cmd.Process.Pid, StartTime: start, CreatedAt: time.Now(),
	}}
	f.pods[r.ID] = p
	f.write(p.dir, &p.Record)
	return shimapi.RunPodResponse{PID: p.PID, StartTime: p.StartTime}, nil
}

func (f *fakeShim) stopPod(id string) {
	p := f.pods[id]
	if p == nil || p.Status == shimapi.StatusStopped {
		return
	}
	endProcess(p.process)
	p.Status, p.FinishedAt = shimapi.StatusStopped, time.Now()
	f.write(p.dir, &p.Record)
	f.tell("pod-exited", p.Record)
}

func (f *fakeShim) create(body json.RawMessage) (any, error) {
	var r shimapi.CreateRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	f.creates = append(f.creates, r)
	c := &fakeContainer{dir: r.Dir, ended: make(chan struct{}), Record: shimapi.Record{
		Version: shimapi.Version, ID: r.ID, Pod: r.Pod, Status: shimapi.StatusCreated, PID: os.Getpid(), CreatedAt: time.Now(), CgroupPaths: f.groups,
	}}
	f.containers[r.ID] = c
	f.write(c.dir, &c.Record)
	f.tell("created", c.Record)
	return shimapi.CreateResponse{PID: c.PID, CgroupPaths: f.groups}, nil
}

func (f *fakeShim) start(id string) error {
	if err := f.known(id); err != nil {
		return err
	}
	c := f.containers[id]
	if c.Status != shimapi.StatusCreated {
		return &shimapi.Error{Kind: shimapi.KindNotRunning, Message: "container " + id + " is not created"}
	}
	c.Status, c.StartedAt = shimapi.StatusRunning, time.Now()
	f.write(c.dir, &c.Record)
	f.tell("started", c.Record)
	return nil
}

func (f *fakeShim) kill(body json.RawMessage) error {
	var r shimapi.KillRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return err
	}
	if err := f.known(r.ID); err != nil {
		return err
	}
	f.kills = append(f.kills, r)
	if f.containers[r.ID].Status == shimapi.StatusStopped {
		return &shimapi.Error{Kind: shimapi.KindNotRunning, Message: "container " + r.ID + " has ended"}
	}
	if !f.ignored[r.Signal] {
		f.end(r.ID, 128+r.Signal, unix.Signal(r.Signal))
	}
	return nil
}

// end ends a container; the caller holds mu.
func (f *fakeShim) end(id string, code int, sig unix.Signal) {
	c := f.containers[id]
	if c == nil || c.Status == shimapi.StatusStopped {
		return
	}
	c.Status, c.ExitCode, c.Signal, c.FinishedAt = shimapi.StatusStopped, code, int(sig), time.Now()
	f.write(c.dir, &c.Record)
	f.tell("exited", c.Record)
	close(c.ended)
}

// exit ends a container by itself.
func (f *fakeShim) exit(id string, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(id, code, 0)
}

// forget drops a container without a word, as a shim does that died and was replaced.
func (f *fakeShim) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
}

// endPause ends a pod's pause process by itself.
func (f *fakeShim) endPause(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopPod(id)
}

func (f *fakeShim) write(dir string, r *shimapi.Record) {
	if err := atomicfile.WriteVolatile(filepath.Join(dir, "status.json"), r); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Error(err)
	}
}

func (f *fakeShim) tell(kind string, r shimapi.Record) {
	for w := range f.watchers {
		w <- shimapi.Event{Kind: kind, Record: r}
	}
}

func (f *fakeShim) watch(conn *net.UnixConn) {
	events := make(chan shimapi.Event, 1000)
	f.mu.Lock()
	for _, p := range f.pods {
		events <- shimapi.Event{Replay: true, Record: p.Record}
	}
	for _, c := range f.containers {
		events <- shimapi.Event{Replay: true, Record: c.Record}
	}
	f.watchers[events] = struct{}{}
	f.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = shimapi.ReadFrame(conn, new(struct{})) // ends with the connection
	}()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, events)
	}()
	for {
		select {
		case e := <-events:
			body, _ := json.Marshal(e)
			if shimapi.WriteFrame(conn, shimapi.Response{Body: body}) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

// session is an exec, which copies its input to its output and ends with code 7, or an
// attach, which prints a greeting and ends with the container.
func (f *fakeShim) session(conn *net.UnixConn, req shimapi.Request, id string, files []*os.File) {
	f.mu.Lock()
	c := f.containers[id]
	f.mu.Unlock()
	if c == nil {
		_ = shimapi.WriteFrame(conn, shimapi.Response{Error: &shimapi.Error{Kind: shimapi.KindNotFound, Message: "no container " + id}})
		return
	}
	if req.Method == shimapi.MethodAttach {
		if shimapi.WriteFrame(conn, shimapi.Response{}) != nil {
			return
		}
		_, _ = files[len(files)-1].WriteString("attached\n")
		shimapi.CloseFiles(files)
		<-c.ended
		_ = shimapi.WriteFrame(conn, shimapi.Response{})
		return
	}
	var r shimapi.ExecRequest
	_ = json.Unmarshal(req.Body, &r)
	f.mu.Lock()
	f.execs = append(f.execs, r)
	f.mu.Unlock()
	if r.Terminal {
		f.terminal(conn)
		return
	}
	if body, _ := json.Marshal(shimapi.ExecStarted{PID: os.Getpid()}); shimapi.WriteFrame(conn, shimapi.Response{Body: body}) != nil {
		return
	}
	_, _ = files[1].ReadFrom(files[0])
	for _, arg := range r.Process.Args {
		_, _ = files[1].WriteString(arg + "\n")
	}
	_, _ = files[2].WriteString("error output\n")
	shimapi.CloseFiles(files)
	status := shimapi.ExitStatus{Code: 7, FinishedAt: time.Now(), TimedOut: r.Timeout > 0 && r.Timeout < time.Second}
	body, _ := json.Marshal(status)
	_ = shimapi.WriteFrame(conn, shimapi.Response{Body: body})
}

// cgroups are those of the containers that are created from now on.
func (f *fakeShim) cgroups(paths map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups = paths
}

// called are the methods that were asked for since the last time.
func (f *fakeShim) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	return out
}

// onCall sets the hook.
func (f *fakeShim) onCall(hook func(method, id string) *shimapi.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// ignore makes containers ignore a signal.
func (f *fakeShim) ignore(signal int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ignored[signal] = true
}

// endSilently makes the shim refuse a method of a container, as it has ended with code 5: its
// record says so, and the event does not come.
func (f *fakeShim) endSilently(method, id string) {
	f.onCall(func(called, about string) *shimapi.Error {
		if called != method || about != id {
			return nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		c := f.containers[id]
		ended := c.Record
		ended.Status, ended.ExitCode, ended.FinishedAt = shimapi.StatusStopped, 5, time.Now()
		f.write(c.dir, &ended)
		return &shimapi.Error{Kind: shimapi.KindNotRunning, Message: "it has ended"}
	})
}
