package overlay

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// IDMap maps Size IDs from Container (in the user namespace) to Host.
type IDMap struct{ Container, Host, Size uint32 }

// NewUserNS makes a user namespace with the mappings, for [Config].UserNS. It starts
// a process that ends before it gets to run anything; a pod's own namespace, where
// there is one, serves as well without.
func NewUserNS(uids, gids []IDMap) (*os.File, error) {
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it is killed before it runs
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: sysMaps(uids), GidMappings: sysMaps(gids),
		Ptrace: true, Pdeathsig: syscall.SIGKILL, // stops at exec, before the first instruction
	}
	return startStopped(cmd)
}

// startStopped needs one thread from start to wait: it is the tracer.
func startStopped(cmd *exec.Cmd) (*os.File, error) {
	type answer struct {
		f   *os.File
		err error
	}
	done := make(chan answer, 1)
	go onThread(func() {
		if err := cmd.Start(); err != nil {
			done <- answer{nil, fmt.Errorf("make a user namespace: %w", err)}
			return
		}
		f, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
		kerr := cmd.Process.Kill()
		werr := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(werr, &exit) {
			werr = nil // killed, as it should be
		}
		if err == nil {
			err = errors.Join(kerr, werr)
		}
		done <- answer{f, err}
	})
	a := <-done
	return a.f, a.err
}

func sysMaps(in []IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(in))
	for i, m := range in {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)}
	}
	return out
}
