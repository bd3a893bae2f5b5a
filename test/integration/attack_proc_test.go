package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/node"
)

// hostSecret is a word in the environment of the daemon.
const hostSecret = "not-for-containers"

// TestAttackProcessesOfPod searches /proc of a container for a way to the host, in
// each mode of the PID namespace, with different capabilities, with and without a user
// namespace: through root, cwd, open files, exe, environment, mappings and namespaces
// of pause, of containers that are being created and of commands that are being
// executed. Meanwhile the test creates containers and executes commands.
func TestAttackProcessesOfPod(t *testing.T) {
	s := own(t, node.Options{Env: []string{"BERTH_TEST_SECRET=" + hostSecret}})
	mark := filepath.Join(s.Dir, "mark")
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, users := range []bool{false, true} {
		for _, mode := range []runtimeapi.NamespaceMode{
			runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_TARGET, runtimeapi.NamespaceMode_NODE,
		} {
			if users && mode == runtimeapi.NamespaceMode_NODE {
				continue // refused: TestRefusals
			}
			for _, caps := range []string{"none", "default", "SYS_PTRACE"} {
				a := procAttack{s: s, mark: mark, mode: mode, users: users, caps: caps}
				t.Run(fmt.Sprintf("%s/%s/%s", strings.ToLower(mode.String()), caps, map[bool]string{false: "host-users", true: "user-namespace"}[users]), a.run)
			}
		}
	}
}

// procAttack is one combination.
type procAttack struct {
	s     *suite
	mark  string
	mode  runtimeapi.NamespaceMode
	users bool
	caps  string
}

func (a procAttack) run(t *testing.T) {
	o := &runtimeapi.NamespaceOption{Pid: a.mode}
	if a.mode == runtimeapi.NamespaceMode_TARGET {
		o.Pid = runtimeapi.NamespaceMode_CONTAINER
	}
	if a.users {
		line := []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}}
		o.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: line, Gids: line}
	}
	p := a.s.pod(t, namespaces(o))
	searcher := a.searcher(t, p, o)
	searcher.says(" F searching\n")
	neighbour := &runtimeapi.NamespaceOption{Pid: o.Pid, UsernsOptions: o.UsernsOptions}
	if a.mode == runtimeapi.NamespaceMode_TARGET {
		neighbour.Pid, neighbour.TargetId = a.mode, searcher.ID
	}
	a.disturb(p, searcher, neighbour)
	if err := syscall.Kill(searcher.hostPID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	searcher.Ended()
	a.judge(t, output(readLog(t, searcher.LogFile()), "stdout"))
}

func (a procAttack) searcher(t *testing.T, p *pod, o *runtimeapi.NamespaceOption) *ctr {
	host, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	only := ""
	if a.mode == runtimeapi.NamespaceMode_NODE {
		only = a.ofTheRuntime()
	}
	return p.start("searcher", "", sameNamespaces(o), runs(t, "search", a.mark, hostSecret, only), func(c *runtimeapi.ContainerConfig) {
		sc := c.Linux.SecurityContext
		sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "HOST_MNT", Value: []byte(host)})
		switch a.caps {
		case "none":
			sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
			sc.NoNewPrivs, sc.ReadonlyRootfs = true, true
		case "SYS_PTRACE":
			sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
			sc.Apparmor = mayMount // the default profile allows no tracing of others
		}
	})
}

// ofTheRuntime are the names of the processes that are looked at on the host: others
// are not the runtime's to guard. A container that also may trace all processes has
// by that the files of the host's own ones, and of a container in the making, which
// is on its way out of the host's mounts; pause must be no way for it even so.
func (a procAttack) ofTheRuntime() string {
	if a.caps == "SYS_PTRACE" {
		return "pause"
	}
	return "pause,runc:[0:PARENT],runc:[1:CHILD],runc:[2:INIT],berth-init,berthd,berth-shim"
}

// disturb makes processes of the runtime appear where the searcher looks.
func (a procAttack) disturb(p *pod, searcher *ctr, o *runtimeapi.NamespaceOption) {
	var all sync.WaitGroup
	all.Go(func() {
		for range 6 {
			if _, err := searcher.execSync(10, "sleep", "0.2"); err != nil {
				p.T.Error(err)
			}
		}
	})
	for i := range 4 {
		c := p.idle(fmt.Sprint("neighbour-", i), sameNamespaces(o))
		c.Sh("true")
		c.Stop(0)
	}
	all.Wait()
}

func (a procAttack) judge(t *testing.T, said string) {
	if strings.Contains(said, "way:") {
		t.Errorf("the host can be reached:\n%s", said)
	}
	_, saw, ended := strings.Cut(said, "saw: ")
	if !ended {
		t.Fatalf("the search did not end: %q", said)
	}
	t.Log("it saw", saw)
	if shares := a.mode == runtimeapi.NamespaceMode_POD || a.mode == runtimeapi.NamespaceMode_NODE; shares && !strings.Contains(saw, "pause") {
		t.Error("it did not see pause")
	}
	if !strings.Contains(saw, "sleep") {
		t.Error("it did not see the commands that were executed")
	}
}
