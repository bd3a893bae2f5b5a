package shimv2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shim"
	"berth/oci/shimapi"
	"berth/test/fewfiles"
	"berth/test/program"
)

// hostile is the program test/hostileshim.
var hostile string

func TestMain(m *testing.M) {
	identifyTimeout, writeTimeout = 2*time.Second, time.Second
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "berth-hostile-")
		if err == nil {
			defer os.RemoveAll(dir)
			hostile = filepath.Join(dir, "hostileshim")
			err = program.Build("test/hostileshim", hostile)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		return m.Run()
	}())
}

// newClient serves the events of shims in a directory of its own.
func newClient(t *testing.T) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-v2-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c, err := New(dir, false, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// bundleFor makes a bundle for a shim. When the test ends no process of the shim may run.
func bundleFor(t *testing.T, program string) shimapi.Bundle {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-b-")
	if err != nil {
		t.Fatal(err)
	}
	b := shimapi.Bundle{ID: filepath.Base(dir), Dir: dir, Runtime: shimapi.Runtime{Shim: program}}
	t.Cleanup(func() {
		if left := processesOf(b.ID); len(left) > 0 {
			t.Errorf("processes of the shim are left: %v", left)
			_ = killOf(b.ID)
		}
		_ = os.RemoveAll(dir)
	})
	return b
}

func processesOf(pod string) (left []int) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d", &pid); err != nil {
			continue
		}
		if ours, err := belongs(pid, pod); err == nil && ours {
			left = append(left, pid)
		}
	}
	return left
}

// behaving makes a bundle for the hostile shim of a behaviour.
func behaving(t *testing.T, behaviour string) shimapi.Bundle {
	t.Helper()
	link := filepath.Join(t.TempDir(), "shim-"+behaviour)
	if err := os.Symlink(hostile, link); err != nil {
		t.Fatal(err)
	}
	return bundleFor(t, link)
}

// TestShimsThatDoNotSpeak: each is given up after a bounded time, with an error that names the
// program, and nothing of it is left.
func TestShimsThatDoNotSpeak(t *testing.T) {
	for behaviour, want := range map[string]string{
		"closes": "closes the connection", "quits": "closes the connection", "mute": "does not answer the call Connect",
		"deaf": "does not answer the call Connect", "garbage": "does not answer the call Connect",
		"huge": "does not answer the call Connect", "stray": "does not answer the call Connect",
	} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			c, b := newClient(t), behaving(t, behaviour)
			began := time.Now()
			_, err := c.Start(t.Context(), b)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), b.Runtime.Shim) {
				t.Errorf("error %v, want %q and the program in it", err, want)
			}
			if took := time.Since(began); took > identifyTimeout+30*time.Second {
				t.Errorf("it took %v", took)
			}
			if left := openIn(t, b.Dir); len(left) > 0 {
				t.Errorf("open descriptors %q", left)
			}
		})
	}
}

// openIn are the descriptors of this process below a directory, or of its sockets there.
func openIn(t *testing.T, dir string) (left []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(name, dir) {
			left = append(left, name)
		}
	}
	return left
}

// TestPrograms: what a program prints or does at its start in place of a shim.
func TestPrograms(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"nothing":      {"", `does not tell where it serves, but says ""`},
		"garbage":      {"echo garbage", `says "garbage\n"`},
		"a relative":   {"echo unix://s", "does not tell where it serves"},
		"two lines":    {"echo unix:///a; echo unix:///b", "does not tell where it serves"},
		"a flood":      {"while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done", "prints more than 64 KiB"},
		"a failure":    {"echo because >&2; exit 3", "action start: exit status 3: because"},
		"much stderr":  {"head -c 200000 /dev/zero | tr '\\0' e >&2; exit 3", "exit status 3: eee"},
		"new version":  {`echo '{"version":9,"address":"unix:///x","protocol":"ttrpc"}'`, "version 9 of the task API, berth at most 3"},
		"grpc":         {`echo '{"version":3,"address":"unix:///x","protocol":"grpc"}'`, "it serves by grpc, berth speaks ttrpc"},
		"no socket":    {`echo '{"version":3,"address":"unix:///nonexistent/x"}'`, "does not serve where it says: "},
		"an old shim":  {"echo /nonexistent/abstract", "does not serve where it says: dial unix @/nonexistent/abstract"},
		"no execution": {"", "exec format error"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "shim")
			script := "#!/bin/sh\nexec 2>&2\n" + c.script + "\n"
			if name == "no execution" {
				script = "\x7fELF"
			}
			if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := newClient(t).Start(t.Context(), bundleFor(t, path))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || len(err.Error()) > 2*maxSaid {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

// TestProgramThatHangs: what it has started ends with it, even in another session.
func TestProgramThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shim")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsetsid sleep 1001 &\nsleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := newClient(t).Start(ctx, bundleFor(t, path))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not end in time and was killed") {
		t.Errorf("error %v", err)
	}
}

// started starts the hostile shim of a behaviour and a container by it.
func started(t *testing.T, behaviour string) (shim.ForeignShim, shim.Task, shimapi.Bundle) {
	t.Helper()
	c, b := newClient(t), behaving(t, behaviour)
	s, err := c.Start(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.End(context.Background()) })
	made, pid, err := s.Create(t.Context(), shim.TaskRequest{Bundle: b})
	if err != nil || pid <= 0 {
		t.Fatalf("process %d, %v", pid, err)
	}
	if _, err := made.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, made, b
}

// TestLife: a shim that does what it should; another client finds it too.
func TestLife(t *testing.T) {
	s, made, b := started(t, "fair")
	if s.PID() <= 0 {
		t.Error("its PID is not known")
	}
	again, err := newClient(t).Connect(t.Context(), b)
	if err != nil || again.PID() != s.PID() {
		t.Fatalf("found again as %v, %v", again, err)
	}
	if err := again.Task(b.ID).Kill(t.Context(), int(unix.SIGKILL), true); err != nil {
		t.Fatal(err)
	}
	if st, err := made.Wait(t.Context()); err != nil || st.Code != 137 || time.Since(st.FinishedAt) > time.Minute {
		t.Errorf("ended with %+v, %v", st, err)
	}
	if err := s.End(t.Context()); err != nil {
		t.Error(err)
	}
	<-again.Gone()
	if _, err := again.Task(b.ID).Started(t.Context()); err == nil || !strings.Contains(err.Error(), "the shim is gone") {
		t.Errorf("a call after its end gives %v", err)
	}
	if _, err := newClient(t).Connect(t.Context(), b); err == nil {
		t.Error("a shim that has ended is found again")
	}
}

// TestShimsWithoutPID: one that does not tell its PID, or tells that of another process, is
// ended by what it has inherited.
func TestShimsWithoutPID(t *testing.T) {
	for _, behaviour := range []string{"shy", "liar"} {
		s, _, b := started(t, behaviour)
		if s.PID() != 0 {
			t.Errorf("%s: its PID is taken to be %d", behaviour, s.PID())
		}
		if len(processesOf(b.ID)) == 0 {
			t.Errorf("%s: it does not run", behaviour)
		}
		if err := s.End(t.Context()); err != nil {
			t.Error(err)
		}
		<-s.Gone()
	}
}

// TestStuckShim: every call to a shim that does not answer ends with its context, the wait for
// a container with the shim, and the shim is killed.
func TestStuckShim(t *testing.T) {
	s, made, b := started(t, "stuck")
	waited := make(chan error, 1)
	go func() {
		_, err := made.Wait(context.Background())
		waited <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, usage := made.Usage(ctx)
	_, state := made.Started(ctx)
	_, exec := made.Exec(ctx, "e", nil, shim.TaskRequest{})
	for what, err := range map[string]error{
		"kill": made.Kill(ctx, 9, true), "usage": usage, "state": state, "exec": exec, "delete": made.Delete(ctx), "update": made.Update(ctx, nil),
	} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	began := time.Now()
	if err := s.End(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*endPatience+5*time.Second {
		t.Errorf("its end took %v", took)
	}
	if err := <-waited; err == nil {
		t.Error("the wait for its container ends without an error")
	}
	if left := openIn(t, b.Dir); len(left) > 0 {
		t.Errorf("open descriptors %q", left)
	}
}

// TestReclaim: the program tells how a container has ended whose shim is gone, and a shim that
// was cut off before it told where it serves is found and killed.
func TestReclaim(t *testing.T) {
	c, b := newClient(t), behaving(t, "fair")
	if st, err := c.Reclaim(t.Context(), b); err != nil || st.Code != 137 {
		t.Errorf("ended with %+v, %v", st, err)
	}
	if err := c.ReclaimShim(t.Context(), b); err != nil { // none was started
		t.Error(err)
	}
	s, err := c.Start(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.Dir, addressName), []byte(`{"address":""}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.ReclaimShim(t.Context(), b); err != nil {
		t.Error(err)
	}
	<-s.Gone()
	for name, script := range map[string]string{"garbage": "echo garbage", "failure": "exit 1", "flood": "exec yes"} {
		path := filepath.Join(t.TempDir(), "shim")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if st, err := c.Reclaim(t.Context(), bundleFor(t, path)); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: ended with %+v, %v", name, st, err)
		}
	}
}

// TestReaderOfNothing: a call to a peer that does not read ends, and its connection with it.
func TestReaderOfNothing(t *testing.T) {
	t.Parallel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "socket")
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := (promptConn{conn}).Write(make([]byte, 16<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// TestSocketsOfAKilledShim: what it has served at goes, with the socket for debugging that
// shims make beside it, and no other file: a shim may not have that of another removed.
func TestSocketsOfAKilledShim(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // the name of a test makes the path of a socket too long
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b := shimapi.Bundle{ID: "pod", Runtime: shimapi.Runtime{SocketDir: dir}}
	where := address{Events: "/ev.sock"}
	names := where.sockets(b)
	if len(names) != 2 {
		t.Fatalf("names %q", names)
	}
	where.Address = "unix://" + filepath.Join(dir, "told")
	for _, name := range where.sockets(b) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := where.removeSockets(b); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	where.Address = "unix://" + file
	if err := where.removeSockets(b); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestAnotherHasItsPID: of a PID that was reused nobody is killed.
func TestAnotherHasItsPID(t *testing.T) {
	if err := (address{PID: os.Getpid(), StartTime: 1}).kill(0); err != nil {
		t.Error(err)
	}
	if err := (address{PID: 1 << 30}).kill(0); err != nil {
		t.Error(err)
	}
}

// A foreign shim that can't be looked for is not one that has ended.
func TestKillOfWithoutDescriptors(t *testing.T) {
	enough := fewfiles.Spare(t, 0)
	err := killOf("none")
	_, berr := belongs(os.Getpid(), "none")
	enough()
	if !errors.Is(err, unix.EMFILE) || !errors.Is(berr, unix.EMFILE) {
		t.Errorf("without descriptors: %v, %v; want EMFILE", err, berr)
	}
	if err := killOf("none"); err != nil {
		t.Errorf("with descriptors: %v", err)
	}
}
