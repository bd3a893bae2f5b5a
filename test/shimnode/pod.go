package shimnode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/atomicfile"
	"berth/oci/shimapi"
)

// Pod starts a pause, on a new shim or one with room.
func (n *Node) Pod(alter ...func(*shimapi.RunPodRequest)) string {
	n.T.Helper()
	sh, err := n.ForNewPod(n.Ctx)
	if err != nil {
		n.T.Fatal(err)
	}
	n.Shim = sh
	id := NewID()
	r := &shimapi.RunPodRequest{
		ID: id, Dir: n.Mkdir("pods", id), Hostname: "test-pod", NewNet: true, NewIPC: true, NewUTS: true,
		NetNSPath: filepath.Join(n.Dir, "state", "pods", id, "net"),
	}
	for _, a := range alter {
		a(r)
	}
	p, err := sh.RunPod(n.Ctx, r)
	if err != nil {
		n.T.Fatal(err)
	}
	if p.PID == 0 || p.StartTime == 0 {
		n.T.Errorf("pause is %+v", p)
	}
	return id
}

// NewID returns a random ID, as the daemon makes them.
func NewID() string {
	var b [32]byte
	f, err := os.Open("/dev/urandom")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	_, _ = io.ReadFull(f, b[:])
	return fmt.Sprintf("%x", b)
}

// Mkdir makes a directory of the node.
func (n *Node) Mkdir(parts ...string) string {
	n.T.Helper()
	dir := filepath.Join(append([]string{n.Dir}, parts...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.T.Fatal(err)
	}
	return dir
}

// PodRecord is what the shim has recorded of a pod.
func (n *Node) PodRecord(id string) shimapi.Record {
	n.T.Helper()
	held, err := n.Shim.List(n.Ctx)
	if err != nil {
		n.T.Fatal(err)
	}
	for _, r := range held.Pods {
		if r.ID == id {
			return r
		}
	}
	n.T.Fatalf("no pod %s", id)
	return shimapi.Record{}
}

// Request is a container of the pod that runs a script; alter changes it.
func (n *Node) Request(pod, script string, alter ...func(*shimapi.CreateRequest, *specs.Spec)) *shimapi.CreateRequest {
	n.T.Helper()
	id := NewID()
	pause := n.PodRecord(pod).PID
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"}
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: n.Rootfs},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin", "HOME=/"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.Cgroup + "/" + id,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", pause)},
				{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", pause)},
				{Type: specs.UTSNamespace, Path: fmt.Sprintf("/proc/%d/ns/uts", pause)},
			},
		},
	}
	r := &shimapi.CreateRequest{
		Pod: pod, ID: id, Dir: n.Mkdir("pods", pod, "containers", id), LogPath: filepath.Join(n.Dir, "logs", id, "0.log"),
	}
	for _, a := range alter {
		a(r, spec)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		n.T.Fatal(err)
	}
	r.Spec = data
	return r
}

// Run creates and starts a container.
func (n *Node) Run(pod, script string, alter ...func(*shimapi.CreateRequest, *specs.Spec)) *shimapi.CreateRequest {
	n.T.Helper()
	r := n.Request(pod, script, alter...)
	if _, err := n.Shim.Create(n.Ctx, r); err != nil {
		n.T.Fatal(err)
	}
	if err := n.Shim.Start(n.Ctx, r.ID); err != nil {
		n.T.Fatal(err)
	}
	return r
}

// Exit waits for the end of a container, which must be on disk by then.
func (n *Node) Exit(r *shimapi.CreateRequest) shimapi.Record {
	n.T.Helper()
	e := n.Seen.Await(n.T, shimapi.EventExited, r.ID)
	var stored shimapi.Record
	if err := atomicfile.Read(filepath.Join(r.Dir, "status.json"), &stored); err != nil {
		n.T.Error(err)
	}
	if stored.Status != shimapi.StatusStopped || stored.ExitCode != e.Record.ExitCode || !stored.FinishedAt.Equal(e.Record.FinishedAt) {
		n.T.Errorf("on disk %+v, told %+v", stored, e.Record)
	}
	return e.Record
}

// Output is what the container printed, from its log, with the tags taken off.
func (n *Node) Output(r *shimapi.CreateRequest) string {
	n.T.Helper()
	return ReadLog(n.T, r.LogPath)
}

// ReadLog is what CRI logs contain, with the tags taken off.
func ReadLog(t testing.TB, paths ...string) string {
	t.Helper()
	var out strings.Builder
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			parts := bytes.SplitN(line, []byte(" "), 4)
			if len(parts) != 4 || !bytes.HasSuffix(line, []byte("\n")) {
				t.Fatalf("no CRI log line: %q", line)
			}
			if _, err := time.Parse(time.RFC3339Nano, string(parts[0])); err != nil {
				t.Fatal(err)
			}
			text := parts[3]
			switch string(parts[2]) {
			case "P":
				text = text[:len(text)-1]
			case "F":
			default:
				t.Fatalf("no tag: %q", line)
			}
			if len(text) > 16<<10+1 {
				t.Fatalf("line of %d bytes", len(text))
			}
			out.Write(text)
		}
	}
	return out.String()
}

// Exec runs a command in a container and returns its output and end.
func (n *Node) Exec(r *shimapi.CreateRequest, timeout time.Duration, args ...string) (string, shimapi.ExitStatus, error) {
	n.T.Helper()
	return n.ExecAs(r, &shimapi.ExecRequest{ExecID: NewID()[:16], Timeout: timeout, Process: &specs.Process{Args: args}})
}

// ExecAs is Exec with a request.
func (n *Node) ExecAs(r *shimapi.CreateRequest, x *shimapi.ExecRequest) (string, shimapi.ExitStatus, error) {
	n.T.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		n.T.Fatal(err)
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		n.T.Fatal(err)
	}
	defer out.Close()
	x.ID = r.ID
	if x.Process.Env == nil {
		x.Process.Env = []string{"PATH=/bin"}
	}
	session, err := n.Shim.Exec(n.Ctx, x, []*os.File{null, w, w})
	_ = w.Close()
	if err != nil {
		return "", shimapi.ExitStatus{}, err
	}
	defer session.Close()
	text := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(out)
		text <- string(data)
	}()
	status, err := session.Wait(n.Ctx)
	_ = out.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	return <-text, status, err
}
