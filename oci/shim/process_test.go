package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// TestAdoptedEnds: another process reaps the adopted one, late. The exit status comes from
// the kernel then.
func TestAdoptedEnds(t *testing.T) {
	probe := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	for script, want := range map[string]shimapi.ExitStatus{
		"exit 42":    {Code: 42},
		"kill -9 $$": {Code: 137, Signal: 9},
	} {
		cmd := exec.Command("/bin/sh", "-c", "read x; "+script)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pidfd, err := openPidfd(cmd.Process.Pid)
		if err != nil {
			t.Skip(err)
		}
		if err := unix.IoctlPidfdInfo(int(pidfd.Fd()), &probe); err != nil {
			t.Log("this kernel does not report exits by pidfd:", err)
			want = shimapi.ExitStatus{Code: shimapi.CodeUnknown}
		}
		o, err := newAdopted(shimapi.Record{}, pidfd)
		if err != nil {
			t.Fatal(err)
		}
		_ = in.Close()
		time.AfterFunc(300*time.Millisecond, func() { _ = cmd.Wait() }) // a lazy PID 1
		began := time.Now()
		got := o.wait()
		known := !got.lost
		if took := time.Since(began); got.Code != want.Code || got.Signal != want.Signal || known != (want.Code != shimapi.CodeUnknown) || known && took > 2*time.Second {
			t.Errorf("%s: %+v, %v after %v", script, got, known, took)
		}
		if err := o.signal(unix.SIGTERM); !isGone(err) {
			t.Errorf("signal after the end: %v", err)
		}
	}
}

// TestAdoptedIsReported: the parent that reaped it reports the status, whatever the kernel knows.
func TestAdoptedIsReported(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	o, err := newAdopted(recordOf(t, cmd.Process.Pid), nil)
	if err != nil {
		t.Fatal(err)
	}
	o.report(shimapi.ExitStatus{Code: 5})
	o.report(shimapi.ExitStatus{Code: 6})
	if got := o.wait(); got.lost || got.Code != 5 {
		t.Errorf("%+v", got)
	}
}

// An adopted process whose pidfd Go's poller did not accept has not ended for that. One that
// blocks stands for it.
func TestAdoptedRunsWithoutThePoller(t *testing.T) {
	cmd, in := runsUntilClosed(t)
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	o, err := newAdopted(shimapi.Record{}, os.NewFile(uintptr(fd), "pidfd"))
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan end, 1)
	go func() { over <- o.wait() }()
	select {
	case got := <-over:
		t.Fatalf("it counts as ended while it runs: %+v", got)
	case <-time.After(300 * time.Millisecond):
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	o.report(shimapi.ExitStatus{Code: 7})
	if got := <-over; got.lost || got.Code != 7 {
		t.Errorf("got %+v, want the status that was reported", got)
	}
	_ = cmd.Wait()
}

func recordOf(t *testing.T, pid int) shimapi.Record {
	t.Helper()
	started, err := shimapi.StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	return shimapi.Record{PID: pid, StartTime: started}
}

func TestAdoptedIsNoOther(t *testing.T) {
	rec := recordOf(t, os.Getpid())
	rec.StartTime++
	if _, err := newAdopted(rec, nil); err == nil {
		t.Error("a process with another start time was adopted")
	}
}

func TestMendLog(t *testing.T) {
	const whole = stamp + " stdout F one\n"
	for name, c := range map[string]struct{ has, want string }{
		"empty":     {"", ""},
		"whole":     {whole, whole},
		"torn":      {whole + stamp + " std", whole},
		"torn data": {whole + stamp + " stdout F tw", whole},
		"all torn":  {stamp, ""},
	} {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, []byte(c.has), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := mendLog("", path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := mendLog("", filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
}
