package shimv2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	runc "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"berth/oci/shimapi"
)

// TestAnswers: the three forms of what "start" prints.
func TestAnswers(t *testing.T) {
	message, err := proto.Marshal(&bootstrap.BootstrapResult{Version: 3, Address: "unix:///s", Protocol: "ttrpc"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]address{
		`{"version":3,"address":"unix:///s","protocol":"ttrpc"}`: {Address: "unix:///s", Protocol: "ttrpc", Version: 3},
		string(message): {Address: "unix:///s", Protocol: "ttrpc", Version: 3},
		"unix:///s\n":   {Address: "unix:///s", Version: 2},
		"/abstract":     {Address: "/abstract", Version: 2},
	} {
		if got, err := parseAnswer([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "{}", `{"address":""}`, "{", "vsock://1", "unix:///a\x00b"} {
		if got, err := parseAnswer([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// TestOptions: the type follows from the shim's name, the spelling of keys is free.
func TestOptions(t *testing.T) {
	for _, key := range []string{"BinaryName", "binary_name", "binaryName"} {
		got, err := encodeOptions(shimapi.Runtime{Shim: "/x/containerd-shim-runc-v2", Options: map[string]any{key: "/crun", "SystemdCgroup": true}})
		if err != nil || got.GetTypeUrl() != "containerd.runc.v1.Options" {
			t.Fatalf("%v, %v", got, err)
		}
		var o runc.Options
		if err := proto.Unmarshal(got.GetValue(), &o); err != nil || o.GetBinaryName() != "/crun" || !o.GetSystemdCgroup() {
			t.Errorf("%v, %v", &o, err)
		}
	}
	got, err := encodeOptions(shimapi.Runtime{Shim: "/x/containerd-shim-kata-v2", Options: map[string]any{"ConfigPath": "/c", "ConfigBody": "text"}})
	var o runtimeoptions.Options
	if err == nil {
		err = proto.Unmarshal(got.GetValue(), &o)
	}
	if err != nil || o.GetConfigPath() != "/c" || string(o.GetConfigBody()) != "text" {
		t.Errorf("%v, %v", &o, err)
	}
	for want, options := range map[string]map[string]any{
		"option Nonsense is none of runtimeoptions.v1.Options": {"Nonsense": 1},
		"options: ": {"ConfigPath": 1},
	} {
		if _, err := encodeOptions(shimapi.Runtime{Shim: "/x/shim", Options: options}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v", options, err)
		}
	}
}

// TestPlacedProgram: a program is placed before its first instruction, and does not run when
// it can't be; one that is ended meanwhile is no success.
func TestPlacedProgram(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	placed := 0
	run := func(ctx context.Context, place func(pid int) error) (string, error) {
		said, err := output(ctx, groupCommand(ctx, "/bin/sh", "-c", "echo $$; : > "+ran), nil, place)
		return strings.TrimSpace(string(said)), err
	}
	said, err := run(t.Context(), func(pid int) error {
		placed = pid
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && !strings.Contains(string(status), "State:\tt") {
			t.Errorf("as it is placed the program is not stopped: %s", status)
		}
		return err
	})
	if _, serr := os.Stat(ran); err != nil || serr != nil || said != fmt.Sprint(placed) {
		t.Errorf("process %d says %q, %v, %v", placed, said, err, serr)
	}
	if err := os.Remove(ran); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no room there")
	if _, err := run(t.Context(), func(pid int) error { placed = pid; return full }); !errors.Is(err, full) {
		t.Errorf("a program that can't be placed: %v", err)
	}
	if _, err := run(t.Context(), func(pid int) error { placed = pid; return unix.Kill(pid, unix.SIGKILL) }); err == nil {
		t.Error("a program that was killed before it began has no error")
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program that was not placed has run")
	}
	if err := unix.Kill(placed, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is left: %v", placed, err)
	}
	if _, err := output(t.Context(), groupCommand(t.Context(), "/nonexistent"), nil, func(int) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

// TestUsage: what is not told is not known.
func TestUsage(t *testing.T) {
	pack := func(m proto.Message) *anypb.Any {
		a, err := packed(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	v1, err := usageOf(pack(&cgroup1.Metrics{
		CPU:    &cgroup1.CPUStat{Usage: &cgroup1.CPUUsage{Total: 7}},
		Memory: &cgroup1.MemoryStat{Usage: &cgroup1.MemoryEntry{Usage: 100, Limit: 200}, TotalInactiveFile: 30, TotalRSS: 50}, Pids: &cgroup1.PidsStat{Current: 3},
	}))
	if err != nil || *v1.CPU != 7 || *v1.Memory != 100 || *v1.MemoryLimit != 200 || v1.Inactive != 30 || *v1.RSS != 50 || *v1.PIDs != 3 {
		t.Errorf("%+v, %v", v1, err)
	}
	v2, err := usageOf(pack(&cgroup2.Metrics{
		CPU: &cgroup2.CPUStat{UsageUsec: 7}, Memory: &cgroup2.MemoryStat{Usage: 100, UsageLimit: 200, InactiveFile: 30, Anon: 50}, Pids: &cgroup2.PidsStat{Current: 3},
	}))
	if err != nil || *v2.CPU != 7000 || *v2.Memory != 100 || v2.Inactive != 30 || *v2.RSS != 50 || *v2.PIDs != 3 {
		t.Errorf("%+v, %v", v2, err)
	}
	for _, m := range []*anypb.Any{pack(&cgroup1.Metrics{}), pack(&cgroup2.Metrics{})} {
		if u, err := usageOf(m); err != nil || u.CPU != nil || u.Memory != nil || u.PIDs != nil {
			t.Errorf("of nothing: %+v, %v", u, err)
		}
	}
	for _, m := range []*anypb.Any{nil, {TypeUrl: "x"}, {TypeUrl: "io.containerd.cgroups.v1.Metrics", Value: []byte{0xff}}, {TypeUrl: "io.containerd.cgroups.v2.Metrics", Value: []byte{0xff}}} {
		if _, err := usageOf(m); err == nil {
			t.Errorf("%v has no error", m)
		}
	}
}

// TestEvents: of what shims send, the work of the OOM killer is passed on, and nothing else.
func TestEvents(t *testing.T) {
	dir, err := os.MkdirTemp("", "berth-ev-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "ev.sock"), nil, 0o600); err != nil { // of a process that died
		t.Fatal(err)
	}
	told := make(chan string, 10)
	c, err := New(dir, true, func(id string) { told <- id })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("unix", filepath.Join(dir, "ev.sock"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	event, err := packed(&events.TaskOOM{ContainerID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*types.Envelope{
		nil, {Topic: "/tasks/exit", Event: event}, {Topic: topicOOM}, {Topic: topicOOM, Event: &anypb.Any{Value: []byte{0xff}}}, {Topic: topicOOM, Event: event},
	} {
		if _, err := ttrpcevents.NewTTRPCEventsClient(client).Forward(t.Context(), &ttrpcevents.ForwardRequest{Envelope: e}); err != nil {
			t.Error(err)
		}
	}
	if first, second := <-told, <-told; first != "" || second != "c" || len(told) > 0 {
		t.Errorf("told %q, %q and %d more", first, second, len(told))
	}
}

// TestLog: a shim that logs without end neither waits nor is kept.
func TestLog(t *testing.T) {
	said := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(said)
	b := shimapi.Bundle{ID: "pod", Dir: t.TempDir()}
	l, err := openLog(b)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(b.Dir, logName), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	line := append(bytes.Repeat([]byte("x"), 2*maxLine), '\n')
	if err := f.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for range maxLines + 100 {
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	l.close()
	if _, err := openLog(shimapi.Bundle{Dir: "/nonexistent"}); err == nil {
		t.Error("a log in no directory is opened")
	}
	link := shimapi.Bundle{Dir: t.TempDir()}
	if err := os.Symlink("/etc/hostname", filepath.Join(link.Dir, logName)); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(link); err == nil {
		t.Error("a link is followed")
	}
}

// TestDescribe: what a shim answers to "-info".
func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "containerd-shim-runc-v2")
	answerOf := func(features string) string {
		text, err := proto.Marshal(&types.RuntimeInfo{Name: "x", Features: &anypb.Any{Value: []byte(features)}})
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, fmt.Sprint(len(features)))
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return "cat " + name
	}
	for name, c := range map[string]struct{ script, answer, err string }{
		"features": {answerOf(`{"ociVersionMin":"1.0.0"}`), `{"ociVersionMin":"1.0.0"}`, ""},
		"none":     {answerOf(""), "{}", ""},
		"no JSON":  {answerOf("nonsense"), "", "are not JSON"},
		"garbage":  {"echo garbage", "", `says "garbage\n", which is not what it can do`},
		"failure":  {"echo unknown flag >&2; exit 2", "", "exit status 2: unknown flag"},
		"flood":    {"exec yes", "", "prints more than 64 KiB"},
	} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		var answer bytes.Buffer
		err := Describe(t.Context(), strings.NewReader(fmt.Sprintf(`{"shim":%q}`, path)), &answer)
		if answer.String() != c.answer || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", name, answer.String(), err)
		}
	}
	if err := Describe(t.Context(), strings.NewReader("{"), &bytes.Buffer{}); err == nil {
		t.Error("half a question is answered")
	}
	if err := Describe(t.Context(), strings.NewReader(fmt.Sprintf(`{"shim":%q,"options":{"Nonsense":1}}`, path)), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "Nonsense") {
		t.Errorf("an unknown option: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 1000 & echo $! > "+pid+"\nwait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Describe(ctx, strings.NewReader(fmt.Sprintf(`{"shim":%q}`, path)), &bytes.Buffer{}); err == nil {
		t.Error("a program that hangs answers")
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Skip("the machine is too busy to start two programs in half a second")
	}
	var child int
	if _, err := fmt.Sscan(string(text), &child); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(child, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if !ended(fd, 30*time.Second) {
		t.Errorf("what it has started runs on as process %d", child)
	}
}
