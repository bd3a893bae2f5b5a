package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/test/node"
)

// served is a container of a daemon that is a unit of systemd.
type served struct {
	*suite
	t     *testing.T
	unit  string
	c     *ctr
	first shimapi.Record
}

// serve runs one, on a machine whose init is systemd.
func serve(t *testing.T) *served {
	t.Helper()
	onlySystemd(t)
	s := own(t, node.Options{})
	v := &served{suite: s, t: t, unit: s.service(t)}
	p := s.pod(t)
	v.c = p.start("c", "exec sleep 1000")
	v.first = recordOf(t, p, v.c.ID)
	return v
}

func (v *served) mainPID() int {
	v.t.Helper()
	n, err := strconv.Atoi(property(v.t, v.unit, "MainPID"))
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

// replaces waits until systemd has started another daemon than that process.
func (v *served) replaces(daemon int) {
	v.t.Helper()
	eventually(v.t, "systemd has started another daemon", func() bool {
		n := v.mainPID()
		return n != 0 && n != daemon && property(v.t, v.unit, "ActiveState") == "active"
	})
}

// well checks that the unit serves, that the container is the process that it was, and that
// pods are made and removed.
func (v *served) well(after string) {
	v.t.Helper()
	if got := property(v.t, v.unit, "ActiveState"); got != "active" {
		v.t.Errorf("after %s the unit is %s", after, got)
	}
	began, err := shimapi.StartTime(v.first.PID)
	if err != nil || began != v.first.StartTime || v.c.Status().GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		v.t.Errorf("after %s the container is %v, its process began at %d, %v, before %d", after, v.c.Status(), began, err, v.first.StartTime)
	}
	if got := v.c.Sh("echo hello"); got != "hello\n" {
		v.t.Errorf("after %s an exec says %q", after, got)
	}
	q := v.pod(v.t, named("after-"+strings.ReplaceAll(after, " ", "-")))
	q.start("c", "exec sleep 1000")
	q.Remove()
}

// A daemon that the kernel kills for want of memory is started again by systemd, and its
// containers, whose memory is not its own, notice nothing.
func TestSystemdDaemonOutOfMemory(t *testing.T) {
	v := serve(t)
	dir := filepath.Join("/sys/fs/cgroup", property(t, v.unit, "ControlGroup"))
	daemon, killed := v.mainPID(), oomKills(t, filepath.Dir(dir))
	// The kernel reclaims what it can, and kills before the write returns. The cgroup goes
	// with the process, and systemd makes the next one without a limit.
	if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte("4096"), 0); err != nil {
		t.Fatal(err)
	}
	v.replaces(daemon)
	if now := oomKills(t, filepath.Dir(dir)); now == killed {
		t.Errorf("the kernel counts %d kills for want of memory, as before", now)
	}
	v.resubscribe(t)
	v.well("its end for want of memory")
}

// A reload of systemd's units, and its re-execution, leave the daemon's unit alone.
func TestSystemdReloadsKeepTheDaemon(t *testing.T) {
	v := serve(t)
	daemon := v.mainPID()
	for _, reload := range []string{"daemon-reload", "daemon-reexec"} {
		systemctl(t, reload)
		if now := v.mainPID(); now != daemon {
			t.Errorf("after %s the daemon is process %d, was %d", reload, now, daemon)
		}
		v.well(reload)
	}
}

// The journal, which the daemon's log goes to, is killed, and is stopped with its sockets:
// the daemon goes on, and so does one that starts meanwhile.
func TestSystemdJournalIsDead(t *testing.T) {
	v := serve(t)
	const journal = "systemd-journald.service"
	sockets := strings.Fields(property(t, journal, "TriggeredBy"))
	daemon := v.mainPID()
	systemctl(t, "kill", "--signal=SIGKILL", journal)
	v.well("a kill of the journal")
	systemctl(t, append([]string{"stop", journal}, sockets...)...)
	t.Cleanup(func() { systemctl(t, append([]string{"start", journal}, sockets...)...) })
	v.well("the end of the journal")
	if now := v.mainPID(); now != daemon {
		t.Errorf("with the journal the daemon ended: it is process %d, was %d", now, daemon)
	}
	if err := unix.Kill(v.mainPID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	v.replaces(daemon)
	v.resubscribe(t)
	v.well("a start without the journal")
}
