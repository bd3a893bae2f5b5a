package server

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func listenAt(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l
}

// isFile tells whether the file at path is the one that info is of.
func isFile(path string, info fs.FileInfo) bool {
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(now, info)
}

func lstat(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// onlyFile wants nothing beside path, in particular no hidden name.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestLendComesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd", "containerd.sock")
	s, err := lend(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if info := lstat(t, path); info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v", info.Mode())
	}
	onlyFile(t, path)
	if s.isLost() {
		t.Error("it takes its own socket for another's")
	}
	if _, err := lend(t.Context(), path); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("a second daemon: %v", err)
	}
	if !isFile(path, s.own) {
		t.Error("a second daemon has taken the socket")
	}
	s.giveUp()
	if err := s.takeAway(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory that it made is left: %v", err)
	}
}

// A containerd that is stopped leaves its socket and its directory.
func TestLendReplacesWhatNobodyAnswersAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd.sock")
	listenAt(t, path).Close()
	s, err := lend(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	onlyFile(t, path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := s.takeAway(); err != nil {
		t.Error(err)
	}
	s.giveUp()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A daemon that is killed while it puts its socket there leaves the names beside it.
func TestLendClearsWhatAKilledDaemonLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd.sock")
	for _, name := range []string{".berth", ".berth-old"} {
		listenAt(t, filepath.Join(filepath.Dir(path), name)).Close()
	}
	s, err := lend(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	onlyFile(t, path)
	if err := s.takeAway(); err != nil {
		t.Error(err)
	}
	s.giveUp()
	if err := s.takeAway(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestLendTakesNothingFromOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lend(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// What comes between a look at a stale socket and its removal stays.
	listenAt(t, path).Close()
	stale := lstat(t, path)
	if err := os.Rename(path, path+"-gone"); err != nil { // so that its inode is not given again
		t.Fatal(err)
	}
	listenAt(t, path)
	now := lstat(t, path)
	s := &lentSocket{path: path}
	if err := s.remove(stale); err != nil || !isFile(path, now) {
		t.Errorf("the socket of another was removed, %v", err)
	}
}

// Of many daemons that start at once, one serves.
func TestLendToOneOnly(t *testing.T) {
	for _, left := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "containerd.sock")
		if left {
			listenAt(t, path).Close()
		}
		var got [8]*lentSocket
		var all sync.WaitGroup
		for i := range got {
			all.Go(func() {
				s, err := lend(context.Background(), path)
				if err == nil {
					got[i] = s
				}
			})
		}
		all.Wait()
		serving := 0
		for _, s := range got {
			if s != nil && !s.isLost() {
				serving++
			}
		}
		onlyFile(t, path)
		if serving != 1 {
			t.Errorf("%d of %d serve, with a socket left: %t", serving, len(got), left)
		}
		for _, s := range got {
			if s != nil {
				if err := s.takeAway(); err != nil {
					t.Error(err)
				}
				s.giveUp()
			}
		}
	}
}

// dialSocket connects at once, as a client that lives on does.
func dialSocket(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func containerdVersion(t *testing.T, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := versionapi.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
	return err
}

// runAt runs a daemon with containerd_socket at path until stop.
func runAt(t *testing.T, path string) (listen string, stop func() error) {
	t.Helper()
	cfg := private(t)
	cfg.ContainerdSocket = path
	told := systemd(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Start{Config: cfg, Version: "v-test"}) }()
	expect(t, told, "READY=1")
	return cfg.SocketPath(), func() error { cancel(); return <-ended }
}

func TestContainerdSocketOfADaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd", "containerd.sock")
	listen, stop := runAt(t, path)
	conn := dialSocket(t, path)
	if err := containerdVersion(t, conn); err != nil {
		t.Error(err)
	}
	if _, err := runtimeapi.NewRuntimeServiceClient(conn).Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("the CRI is not served there: %v", err)
	}
	if err := containerdVersion(t, dialSocket(t, listen)); status.Code(err) != codes.Unimplemented {
		t.Errorf("the socket of the CRI answers as containerd does: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

// A containerd that starts later removes the socket and listens anew.
func TestContainerdTakesItsSocketBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd.sock")
	listen, stop := runAt(t, path)
	conn := dialSocket(t, path)
	if err := containerdVersion(t, conn); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := containerdVersion(t, conn); err != nil {
		t.Errorf("a client is left alone before anybody else is there: %v", err)
	}
	theirs := listenAt(t, path)
	came := make(chan struct{})
	go func() { // the client of before comes to them by itself
		c, err := theirs.Accept()
		if err == nil {
			close(came)
			c.Close()
		}
	}()
	conn.Connect()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case <-came:
		case <-deadline:
			t.Fatal("the client stays with berth")
		default:
			_ = containerdVersion(t, conn)
			continue
		}
		break
	}
	own := lstat(t, path)
	if _, err := runtimeapi.NewRuntimeServiceClient(dialSocket(t, listen)).Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("the CRI's own socket is no longer served: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !isFile(path, own) {
		t.Error("the daemon has removed the other's socket at its end")
	}
}

func TestContainerdSocketThatIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "containerd.sock")
	listenAt(t, path)
	cfg := private(t)
	cfg.ContainerdSocket = path
	if err := Run(t.Context(), Start{Config: cfg, Version: "v-test"}); err == nil || !strings.Contains(err.Error(), "containerd_socket") {
		t.Errorf("a path that was asked for and is another's: %v", err)
	}
	cfg = private(t)
	cfg.ContainerdSocket = cfg.SocketPath()
	told := systemd(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Start{Config: cfg, Version: "v-test"}) }()
	expect(t, told, "READY=1")
	if err := containerdVersion(t, dialSocket(t, cfg.SocketPath())); err != nil {
		t.Errorf("where both are one socket: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
