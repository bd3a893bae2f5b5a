package shim

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

func madePod(reg *registry, id string, pid int) *pod {
	p := &pod{id: id, pid: pid, process: ended{}, ready: make(chan struct{}), done: make(chan struct{})}
	close(p.ready)
	reg.pods[id] = p
	return p
}

func madeContainer(reg *registry, id, pod string, pid int) *container {
	ctr := &container{id: id, pod: pod, pid: pid, process: ended{}, ready: make(chan struct{}), done: make(chan struct{})}
	ctr.hub, ctr.record.Status = newHub(), shimapi.StatusRunning
	close(ctr.ready)
	reg.containers[id] = ctr
	return ctr
}

func TestClaim(t *testing.T) {
	reg := newRegistry()
	if err := claim(reg, reg.pods, "p", &pod{}); err != nil {
		t.Fatal(err)
	}
	if err := claim(reg, reg.pods, "p", &pod{}); asWireError(err).Kind != shimapi.KindExists {
		t.Errorf("second claim: %v, want %s", err, shimapi.KindExists)
	}
	drop(reg, reg.pods, "p")
	if err := claim(reg, reg.pods, "p", &pod{}); err != nil {
		t.Errorf("claim of a dropped ID: %v", err)
	}
}

func TestRunning(t *testing.T) {
	reg := newRegistry()
	ctr := madeContainer(reg, "c", "p", 10)
	if got, err := reg.running("c"); got != ctr || err != nil {
		t.Errorf("a running container: %v, %v", got, err)
	}
	ctr.record.Status = shimapi.StatusStopped
	if _, err := reg.running("c"); asWireError(err).Kind != shimapi.KindNotRunning {
		t.Errorf("a stopped container: %v, want %s", err, shimapi.KindNotRunning)
	}
	if _, err := reg.container("c"); err != nil {
		t.Errorf("a stopped container is not found: %v", err)
	}
	ctr.failed = true
	if _, err := reg.container("c"); asWireError(err).Kind != shimapi.KindNotFound {
		t.Errorf("a container whose creation failed: %v, want %s", err, shimapi.KindNotFound)
	}
}

// TestJoined: a container joins namespaces of processes of its own pod only.
func TestJoined(t *testing.T) {
	reg := newRegistry()
	madePod(reg, "p", 10)
	madePod(reg, "q", 20)
	madeContainer(reg, "c", "p", 11)
	madeContainer(reg, "unfinished", "p", 12).ready = make(chan struct{})
	for path, want := range map[string]int{
		"":                0,
		"/run/netns/kept": 0,
		"/proc/10/ns/net": 1,
		"/proc/11/ns/pid": 1,
		"/proc/12/ns/pid": -1, // an error
		"/proc/20/ns/net": -1,
		"/proc/1/ns/net":  -1,
	} {
		got, err := reg.joined("p", []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: path}})
		if want < 0 && asWireError(errOr(err)).Kind != shimapi.KindNotRunning || want >= 0 && (err != nil || len(got) != want) {
			t.Errorf("%q: %d processes, %v, want %d", path, len(got), err, want)
		}
		if want > 0 && stillLive(got) == nil {
			t.Errorf("%q: a process that has ended counts as alive", path)
		}
	}
}

func errOr(err error) error {
	if err == nil {
		return fault(shimapi.KindInternal, "no error")
	}
	return err
}
