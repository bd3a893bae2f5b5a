package overlay

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"berth/oci/idmap"
	"berth/oci/thread"
)

// NewUserNS makes a user namespace with the maps, for [Config].UserNS. For that it starts a
// process, which is killed before its first instruction. Where a pod has a user namespace
// already, that can be used instead.
func NewUserNS(uids, gids []idmap.Map) (*os.File, error) {
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it is killed before it runs
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: idmap.SysProc(uids), GidMappings: idmap.SysProc(gids),
		Ptrace: true, Pdeathsig: syscall.SIGKILL, // stops at exec, before the first instruction
	}
	return startStopped(cmd)
}

// startStopped starts and waits on one thread, because that is the tracer of the process.
func startStopped(cmd *exec.Cmd) (ns *os.File, err error) {
	thread.Run(func() {
		if err = cmd.Start(); err != nil {
			err = fmt.Errorf("make a user namespace: %w", err)
			return
		}
		ns, err = os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
		kerr := cmd.Process.Kill()
		werr := cmd.Wait()
		var exit *exec.ExitError
		if errors.As(werr, &exit) {
			werr = nil // it was killed, as intended
		}
		if err == nil {
			err = errors.Join(kerr, werr)
		}
	})
	return ns, err
}
