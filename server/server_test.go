package server

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cri/operator"
	"berth/oci"
	"berth/server/config"
)

// private is a configuration that shares nothing with the machine. No test here
// runs a pod, so any file does as the shim.
func private(t *testing.T) config.Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Root, cfg.State = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	cfg.Listen = "unix://" + filepath.Join(dir, "run", "s")
	cfg.ContainerdSocket = config.Off
	cfg.CNIConfDir = filepath.Join(dir, "net.d")
	cfg.ShimBinary = os.Args[0]
	return cfg
}

// systemd collects what a daemon tells the service manager.
func systemd(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	told := make(chan string, 10)
	go func() {
		buf := make([]byte, 256)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			told <- string(buf[:n])
		}
	}()
	return told
}

func expect(t *testing.T, told <-chan string, want string) {
	t.Helper()
	select {
	case got := <-told:
		if got != want {
			t.Fatalf("systemd was told %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("systemd was not told %q", want)
	}
}

// checkFeatures wants Status to announce all that the host can do.
func checkFeatures(t *testing.T, client runtimeapi.RuntimeServiceClient) {
	t.Helper()
	host, err := oci.DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := answer.GetFeatures(), host.Features(); !proto.Equal(got, want) {
		t.Errorf("features %v, of the host %v", got, want)
	}
	for _, h := range answer.GetRuntimeHandlers() {
		if got, want := h.GetFeatures(), host.HandlerFeatures(); !proto.Equal(got, want) {
			t.Errorf("handler %q has features %v, the host %v", h.GetName(), got, want)
		}
	}
}

func TestLifeOfADaemon(t *testing.T) {
	cfg := private(t)
	told := systemd(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Start{Config: cfg, Version: "v-test"}) }()
	expect(t, told, "READY=1")

	client, err := operator.Dial(cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	version, err := client.Runtime().Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil || version.GetRuntimeVersion() != "0.0.0+v-test" {
		t.Errorf("version %v, %v", version, err)
	}
	checkFeatures(t, client.Runtime())
	// A stream that never ends by itself must not hold up the end for long.
	events, err := client.Runtime().GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = events.Recv() }()

	other := cfg
	other.Listen += "2"
	if err := Run(ctx, Start{Config: other, Version: "v-test"}); err == nil || !strings.Contains(err.Error(), "in use by the berthd") {
		t.Errorf("a second daemon on the same root: %v", err)
	}

	began := time.Now()
	stop()
	expect(t, told, "STOPPING=1")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > readersTimeout+3*time.Second {
		t.Errorf("it took %v to end", took)
	}
	again, err := open(t.Context(), cfg, "v-test")
	if err != nil {
		t.Fatalf("what it had open was not closed: %v", err)
	}
	again.close(t.Context())
}

func TestAFailedStartLeavesNothingOpen(t *testing.T) {
	cfg := private(t)
	cfg.CgroupDriver = "systemd"
	if systemdRuns() {
		t.Skip("systemd runs here")
	}
	for range 2 { // the second finds the locks free
		_, err := open(t.Context(), cfg, "v-test")
		if err == nil || !strings.Contains(err.Error(), "cgroup_driver") {
			t.Fatalf("got %v", err)
		}
	}
}

func TestShimBinary(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := shimBinary(""); err == nil || !strings.Contains(err.Error(), "shim_binary") {
		t.Errorf("got %v, want advice", err)
	}
	inPath := filepath.Join(dir, "berth-shim")
	if err := os.WriteFile(inPath, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := shimBinary(""); err != nil || got != inPath {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := shimBinary("/nonexistent/shim"); err == nil {
		t.Error("a configured path that is not there must be an error")
	}
}
