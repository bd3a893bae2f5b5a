package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/oci"
	"berth/oci/shimapi"
)

// The records of a node with one pod of two containers, as the daemon and the
// shim write them; a running container is this test's own child.
func records(t *testing.T, fact shimapi.Record, log string) (*Pods, string) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "pods", "aaaa")
	logFile := filepath.Join(root, "web.log")
	write(t, logFile, log)
	write(t, filepath.Join(dir, "resolv.conf"), "nameserver 10.0.0.1\n")
	write(t, filepath.Join(dir, "pod.json"), `{"version": 1, "id": "aaaa", "intent": "ready", "new_field": 1, "boot_id": "`+bootID()+`",
		"config": {"metadata": {"name": "shop", "namespace": "prod"}, "unknown": true}}`)
	spec := `{"process": {"args": ["/web"], "cwd": "/srv"}, "linux": {"maskedPaths": ["/proc/keys"], "resources": {"memory": {"limit": 67108864}}}}`
	for _, id := range []string{"bbbb", "bbcc"} {
		name := map[string]string{"bbbb": "web", "bbcc": "shop"}[id]
		write(t, filepath.Join(dir, "containers", id, "container.json"), `{"version": 1, "id": "`+id+`", "intent": "ready", "image_id": "sha256:1", "layers": ["x"],
			"config": {"metadata": {"name": "`+name+`"}}, "log_path": "`+logFile+`", "spec": `+spec+`}`)
	}
	fact.ID, fact.BootID = "bbbb", bootID()
	b, err := json.Marshal(fact)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "containers", "bbbb", shimapi.RecordName), string(b))
	pods, err := Open(root, filepath.Join(root, "run"))
	if err != nil || len(pods.Broken) > 0 {
		t.Fatal(err, pods.Broken)
	}
	return pods, root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// running is of a process that lives as long as the test.
func running(t *testing.T) shimapi.Record {
	t.Helper()
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = child.Process.Kill(), child.Wait() })
	start, err := shimapi.StartTime(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return shimapi.Record{Status: shimapi.StatusRunning, PID: child.Process.Pid, StartTime: start, StartedAt: time.Now()}
}

func stopped(code int) shimapi.Record {
	end := time.Now()
	return shimapi.Record{Status: shimapi.StatusStopped, PID: 1, ExitCode: code, StartedAt: end.Add(-time.Second), FinishedAt: end}
}

func TestLikelyReasonOfAnEnd(t *testing.T) {
	const head = "2026-01-01T00:00:00.000000000Z stderr F "
	killed := stopped(137)
	killed.Signal, killed.OOMKilled = 9, true
	crashed, filtered, stop := stopped(139), stopped(159), stopped(143)
	crashed.Signal, filtered.Signal, stop.Signal = 11, 31, 15
	never := stopped(128)
	never.Reason, never.Message = "StartError", "exec /web: no such file"
	for name, c := range map[string]struct {
		fact       shimapi.Record
		log        string
		layer, has string
	}{
		"good end":        {stopped(0), head + "done\n", "", nothing},
		"code alone":      {stopped(3), head + "bye\n", "process", "code 3"},
		"shell":           {stopped(127), "", "process", "no such command"},
		"OOM":             {killed, head + "no space left on device\n", "process", "memory, the limit is 64 MiB"},
		"crash":           {crashed, "", "process", "SIGSEGV"},
		"seccomp":         {filtered, "", "process", "seccomp"},
		"stop":            {stop, "", "process", "SIGTERM"},
		"start error":     {never, "", "process", "no such file"},
		"disk full":       {stopped(1), head + "write: No space left on device\n" + head + "giving up\n", "filesystem", "full"},
		"refused":         {stopped(1), head + "mount: Operation not permitted\n", "security", "seccomp"},
		"port taken":      {stopped(1), head + "bind: Address already in use\n", "network", "port"},
		"complains, goes": {stopped(0), head + "x: Permission denied\n", "security", "permission"},
	} {
		t.Run(name, func(t *testing.T) {
			pods, _ := records(t, c.fact, c.log)
			r, err := pods.Explain("web")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(r.Likely, c.layer) || !strings.Contains(strings.ToLower(r.Likely), strings.ToLower(c.has)) {
				t.Errorf("most likely %q", r.Likely)
			}
		})
	}
}

// Every layer is there, every fact read from a file names it, and the text ends
// with the reason.
func TestReportOfARunningProcess(t *testing.T) {
	fact := running(t)
	pods, _ := records(t, fact, "")
	r, err := pods.Explain("prod/shop/web")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range r.Layers {
		names = append(names, l.Name)
		if len(l.Facts) == 0 {
			t.Errorf("layer %s has no facts", l.Name)
		}
	}
	if want := []string{"process", "filesystem", "namespaces", "cgroup", "security", "network"}; !slices.Equal(names, want) {
		t.Errorf("layers %q, want %q", names, want)
	}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if last := lines[len(lines)-1]; last != "Most likely: "+r.Likely {
		t.Errorf("the last line is %q", last)
	}
	for _, want := range []string{"the host's, inode", "[CONTAINER/container.json]", "no_new_privs", fmt.Sprintf("[/proc/%d/status]", fact.PID)} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// A PID that another process has by now is not the container.
func TestReusedPIDIsGone(t *testing.T) {
	fact := shimapi.Record{Status: shimapi.StatusRunning, PID: os.Getpid(), StartTime: 1}
	pods, _ := records(t, fact, "")
	r, err := pods.Explain("bbbb")
	if err != nil || !strings.Contains(r.Likely, "nobody wrote down how it ended") {
		t.Errorf("%v: %q", err, r.Likely)
	}
	if all := pods.Audit(); len(all) != 0 {
		t.Errorf("it is audited: %+v", all)
	}
}

func TestFind(t *testing.T) {
	pods, _ := records(t, stopped(0), "")
	for what, want := range map[string]string{
		"aaaa": "aaaa", "aa": "aaaa", "prod/shop": "aaaa", "web": "bbbb", "bbb": "bbbb", "prod/shop/shop": "bbcc",
	} {
		r, err := pods.Explain(what)
		if err != nil || r.ID != want {
			t.Errorf("%q: %+v, %v", what, r, err)
		}
	}
	for what, want := range map[string]error{"bb": ErrAmbiguous, "shop": ErrAmbiguous, "zz": ErrNotFound, "": ErrNotFound} {
		if _, err := pods.Explain(what); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", what, err, want)
		}
	}
}

func TestBrokenRecordIsTold(t *testing.T) {
	_, root := records(t, stopped(0), "")
	write(t, filepath.Join(root, "pods", "dddd", "pod.json"), "{")
	write(t, filepath.Join(root, "pods", "aaaa", "containers", "bbbb", shimapi.RecordName), "nonsense")
	if err := os.MkdirAll(filepath.Join(root, "pods", "going"), 0o755); err != nil {
		t.Fatal(err)
	}
	pods, err := Open(root, root)
	if err != nil || len(pods.Broken) != 2 {
		t.Fatalf("%v, %q", err, pods.Broken)
	}
	if _, err := pods.Explain("bbcc"); err != nil {
		t.Errorf("the neighbour is lost too: %v", err)
	}
	if none, err := Open(filepath.Join(root, "none"), root); err != nil || len(none.all) != 0 {
		t.Errorf("a node without pods: %+v, %v", none, err)
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:1F91 0100007F:1234 01 00000000:00000000
   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0
   3: XX:0050 0 0A
`
	if got := listening(table); !slices.Equal(got, []string{"127.0.0.1:8080", "[::1]:80"}) {
		t.Errorf("got %q", got)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	const head = "2026-01-01T00:00:00.000000000Z stdout F "
	write(t, file, strings.Repeat(head+"early "+strings.Repeat("x", 300)+"\n", 100)+head+"one two\n"+head+"\x1b[31mred\xff\n"+head)
	lines, err := tail(file, 3)
	if err != nil || len(lines) != 3 {
		t.Fatalf("%q, %v", lines, err)
	}
	if !strings.HasPrefix(lines[0], "one two") || lines[1] != "\x1b[31mred\xff" || lines[2] != "" {
		t.Errorf("got %q", lines)
	}
	write(t, file, "")
	if lines, err := tail(file, 3); err != nil || len(lines) != 0 {
		t.Errorf("of nothing: %q, %v", lines, err)
	}
}

// The log of a program that prints long lines has no newline for 16 KiB.
func TestTailOfLongLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	part := "2026-01-01T00:00:00.000000000Z stdout P " + strings.Repeat("x", 16<<10) + "\n"
	write(t, file, strings.Repeat(part, 5)+strings.Replace(part, "xxxx", "last", 1))
	lines, err := tail(file, lastWords)
	if err != nil || len(lines) < 2 || !strings.HasPrefix(lines[len(lines)-1], "last") {
		t.Errorf("%d lines, %.300q, %v", len(lines), lines, err)
	}
}

func TestCapabilityText(t *testing.T) {
	all := oci.DefaultCapabilities()
	for want, caps := range map[string][]string{
		"none":                                 nil,
		"the default 14":                       all,
		"the default ones without CAP_SETFCAP": all[:13],
		"the default ones and CAP_NET_ADMIN":   append(slices.Clone(all), "CAP_NET_ADMIN"),
		"CAP_NET_ADMIN":                        {"CAP_NET_ADMIN"},
	} {
		if got := capabilityText(caps); got != want {
			t.Errorf("%q: got %q, want %q", caps, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 2048: "2 KiB", 3 << 20: "3 MiB", 1 << 40: "1 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) is %q, want %q", n, got, want)
		}
	}
}
