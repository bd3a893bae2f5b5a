package crash

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// TestTenThousandExited: a node with the records of ten thousand containers that have ended
// starts as soon, tells of them all in one answer that a client of gRPC takes, and removes
// them with their pod. Only one of them ran: the others have copies of its records.
func TestTenThousandExited(t *testing.T) {
	const all = 10_000
	soon := 2 * patience // it takes two seconds on a machine that does nothing else
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	d.pull(busybox)
	p := d.run(d.hostPod("many"))
	first := p.start("ended", "exit 7")
	first.Ended()
	d.kill()
	ids := []string{first.ID}
	for i := 1; i < all; i++ {
		ids = append(ids, copyOf(t, filepath.Join(d.Root, "pods", p.ID, "containers"), first.ID, i))
	}
	began := time.Now()
	d.restart()
	ready := time.Since(began)
	began = time.Now()
	r, err := d.Runtime.ListContainers(within(t), &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}},
	})
	list := time.Since(began)
	if err != nil || len(r.GetContainers()) != all {
		t.Fatalf("%d containers are told of, want %d: %v", len(r.GetContainers()), all, err)
	}
	for i := 0; i < all; i += 97 {
		if st, err := d.ContainerStatus(within(t), ids[i]); err != nil || st.GetExitCode() != 7 {
			t.Errorf("container %d: code %d, %v", i, st.GetExitCode(), err)
		}
	}
	// The kubelet removes one after the other, beside others that come.
	began = time.Now()
	q := d.run(d.hostPod("beside"))
	q.start("c", "exit 0").Ended()
	for _, id := range ids[:100] {
		p.ctr(id).Remove()
	}
	q.Remove()
	some := time.Since(began)
	began = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience) // each takes a millisecond or two
	defer cancel()
	if _, err := d.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Errorf("the removal of the pod took %v: %v", time.Since(began), err)
	}
	t.Logf("with %d exited containers: ready after %v, listed after %v, a pod and 100 removals %v, the removal of all the others %v", all, ready, list, some, time.Since(began))
	if ready > soon || list > soon {
		t.Errorf("ready after %v, listed after %v, want less than %v", ready, list, soon)
	}
}

// copyOf makes another container of one that has ended, by its records.
func copyOf(t *testing.T, dir, id string, attempt int) string {
	t.Helper()
	var random [32]byte
	_, _ = rand.Read(random[:])
	other := hex.EncodeToString(random[:])
	for _, sub := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, other, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"container.json", "status.json"} {
		data, err := os.ReadFile(filepath.Join(dir, id, name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), id, other)
		if name == "container.json" {
			was := `"metadata":{"name":"ended"}`
			if !strings.Contains(text, was) {
				t.Fatalf("the record has no %s", was)
			}
			text = strings.Replace(text, was, fmt.Sprintf(`"metadata":{"name":"ended","attempt":%d}`, attempt), 1)
		}
		if err := os.WriteFile(filepath.Join(dir, other, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return other
}

// TestHundredMegabyteLine: a line without an end is logged in pieces as the CRI wants it,
// none is missing, and the shim does not keep the line in memory.
func TestHundredMegabyteLine(t *testing.T) {
	const size = 100 << 20
	d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
	d.pull(busybox)
	p := d.run(d.hostPod("talks"))
	c := p.start("line", fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; echo; echo end", size))
	logged := func() bool { return strings.HasSuffix(tail(c.LogFile(), 64), " stdout F end\n") }
	for deadline := time.Now().Add(6 * patience); !logged(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v the line was not logged", 6*patience)
		}
	}
	if st := c.Ended(); st.GetExitCode() != 0 {
		t.Errorf("the container ended with %d", st.GetExitCode())
	}
	f, err := os.Open(c.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content, pieces, longest := 0, 0, 0
	for in := bufio.NewReader(f); ; pieces++ {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		parts := bytes.SplitN(line, []byte(" "), 4)
		if len(parts) != 4 {
			t.Fatalf("piece %d is no line of a log: %.80q", pieces, line)
		}
		if text := bytes.TrimSuffix(parts[3], []byte("\n")); string(text) != "end" {
			content += len(text)
			if strings.Trim(string(text), "x") != "" {
				t.Fatalf("piece %d has something else in it", pieces)
			}
			longest = max(longest, len(line))
		}
	}
	peak := statusKiB(t, d.shimPID(), "VmHWM")
	t.Logf("%d pieces of %d bytes at most; the shim had %d KiB at most", pieces, longest, peak)
	if content != size {
		t.Errorf("%d bytes were logged, want %d", content, size)
	}
	if longest > 32<<10 || peak > 64<<10 {
		t.Errorf("a piece has %d bytes, the shim took %d KiB", longest, peak)
	}
	p.Remove()
}

// tail is the end of a file; "" if it can't be read.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(n, st.Size()))
	if _, err := f.ReadAt(buf, st.Size()-int64(len(buf))); err != nil {
		return ""
	}
	return string(buf)
}

// statusKiB is a field of proc_pid_status(5).
func statusKiB(t *testing.T, pid int, field string) (kib int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

// TestClockJumped: records that tell of times in the future or long ago, as they are found
// after the clock of the machine was set: the daemon starts, tells them as they are, and no
// wait, removal or rate depends on them. Within one run of a program all waits are of the
// monotonic clock, which nobody sets.
func TestClockJumped(t *testing.T) {
	for name, at := range map[string]time.Time{
		"future": time.Now().AddDate(70, 0, 0), "past": time.Unix(86400, 0),
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true, NoNetwork: true})
			d.pull(busybox)
			p := d.run(d.hostPod("jumped"))
			ended := p.start("ended", "exit 7")
			was := ended.Ended()
			lives := p.start("counter", client.Counter)
			d.witness = lives
			d.kill()
			d.setTimes(at)
			d.restart()
			if why := d.conditions(); why != "" {
				t.Errorf("the node is not ready: %s", why)
			}
			if st := ended.Status(); st.GetExitCode() != 7 || st.GetReason() != was.GetReason() {
				t.Errorf("what had ended is %v", st)
			}
			lives.stillRuns()
			for range 2 {
				r, err := d.Runtime.ContainerStats(within(t), &runtimeapi.ContainerStatsRequest{ContainerId: lives.ID})
				if err != nil {
					t.Fatal(err)
				}
				if rate := r.GetStats().GetCpu().GetUsageNanoCores().GetValue(); rate > 1e12 {
					t.Errorf("the container uses %d nanocores", rate)
				}
			}
			d.pull(layered)
			d.removeImage(layered)
			began := time.Now()
			lives.Stop(2 * time.Second)
			if took := time.Since(began); took > patience/2 {
				t.Errorf("the stop took %v", took)
			}
			st := lives.Status()
			if at := time.Unix(0, st.GetFinishedAt()); at.Before(began) || at.After(time.Now()) {
				t.Errorf("the container finished at %v, which is not now", at)
			}
			q := d.run(d.hostPod("after"))
			q.start("c", "exit 0").Ended()
			q.Remove()
			p.Remove()
		})
	}
}

// timeField is a time in a record.
var timeField = regexp.MustCompile(`"([a-z]+)_at":"[^"]+"`)

// setTimes makes every time in the records, and of the files, another.
func (d *daemon) setTimes(at time.Time) {
	d.t.Helper()
	stamp := at.UTC().Format(time.RFC3339Nano)
	changed := 0
	for _, pattern := range []string{"pods/*/*.json", "pods/*/containers/*/*.json", "images/*.json"} {
		files, err := filepath.Glob(filepath.Join(d.Root, pattern))
		if err != nil {
			d.t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				d.t.Fatal(err)
			}
			text := timeField.ReplaceAll(data, []byte(`"${1}_at":"`+stamp+`"`))
			if !bytes.Equal(text, data) {
				changed++
			}
			if err := os.WriteFile(f, text, 0o600); err != nil {
				d.t.Fatal(err)
			}
			if err := os.Chtimes(f, at, at); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	if changed < 5 { // of a pod, two containers and their facts
		d.t.Fatalf("only %d records have a time", changed)
	}
}
