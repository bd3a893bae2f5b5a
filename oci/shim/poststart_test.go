package shim

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// killable is a process that runs until it is killed.
type killable struct {
	process
	killed chan struct{}
	waits  atomic.Int32
}

// wait tells only the first caller how the process has ended, as the kernel does.
func (p *killable) wait() end {
	first := p.waits.Add(1) == 1
	<-p.killed
	if !first {
		return unknownEnd()
	}
	return end{ExitStatus: shimapi.ExitStatus{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL)}}
}

func (p *killable) signal(syscall.Signal) error {
	close(p.killed)
	return nil
}

// TestAFailedPoststartWaitsForNoProcess: the process of a container whose poststart hook fails is
// killed, and waited for by none but who waits for it already.
func TestAFailedPoststartWaitsForNoProcess(t *testing.T) {
	ctr := madeContainer(newRegistry(), "c", "p", 10)
	p := &killable{killed: make(chan struct{})}
	ctr.dir, ctr.process, ctr.io, ctr.ooms = t.TempDir(), p, &stdio{}, newOOMCounter(nil)
	ctr.poststart = configs.HookList{configs.NewCommandHook(&configs.Command{Path: "/bin/false"})}
	var err error
	ctr.lc, err = libcontainer.Create(t.TempDir(), "c", &configs.Config{
		Rootfs: t.TempDir(), Cgroups: &cgroups.Cgroup{Path: "/berth-test-none", Resources: &cgroups.Resources{}},
	})
	if err != nil {
		t.Skip(err) // it needs the hierarchies of cgroups
	}
	go ctr.supervise(func() {})
	if err := ctr.runPoststart(); err == nil || !strings.Contains(err.Error(), "poststart hook: /bin/false") {
		t.Errorf("error %v, want the hook's", err)
	}
	<-ctr.done
	if rec := ctr.current(); rec.ExitCode != 137 || rec.Signal != int(unix.SIGKILL) || p.waits.Load() != 1 {
		t.Errorf("%d have waited, record %+v, want one and code 137", p.waits.Load(), rec)
	}
}
