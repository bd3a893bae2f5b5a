package shim

import (
	"testing"
	"time"

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
	ctr.hub, ctr.record = newHub(), shimapi.Record{ID: id, Pod: pod, Status: shimapi.StatusRunning}
	ctr.publish(shimapi.EventStarted)
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
	ctr.publish(shimapi.EventExited)
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

// TestARecordBeingWrittenHoldsUpNobody: while the record of a tracer is being written, and the
// disk does not answer, its pod and all others can go on.
func TestARecordBeingWrittenHoldsUpNobody(t *testing.T) {
	reg := newRegistry()
	ctr := madeContainer(reg, "c", "p", 10)
	ctr.tracer = true
	ctr.mu.Lock() // as while it is written
	defer ctr.mu.Unlock()
	answered := make(chan []*container, 1)
	go func() { answered <- reg.tracersOf("p") }()
	select {
	case got := <-answered:
		if len(got) != 1 || got[0] != ctr {
			t.Errorf("the tracers are %v, want the one", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the tracers of the pod are not told, with the lock of all pods held")
	}
	if got, err := reg.running("c"); got != ctr || err != nil {
		t.Errorf("the container: %v, %v", got, err)
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
