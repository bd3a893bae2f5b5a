package integration

import (
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// stopTime is within what a stop takes that waits for nothing which hangs.
var stopTime = client.Bound(8 * time.Second)

// A volume's server stops to answer, or never did, so that whoever looks at the volume
// hangs: the creation of the container must not keep its pod from being stopped and
// removed, wherever it hangs.
func TestAttackDeadVolume(t *testing.T) {
	for name, answered := range map[string]func() int{
		"looked at by the daemon":  func() int { return 0 },
		"mounted by the container": shared.PID,
	} {
		t.Run(name, func(t *testing.T) {
			dead := mountDead(t, answered())
			// As the kubelet has it. In a PID namespace that the pod shares nothing could end
			// before what the kernel holds in a mount.
			own := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
			p := shared.pod(t, namespaces(own))
			shared.pull(t, busybox)
			created := make(chan error, 1)
			go func() {
				_, err := p.create(client.Shell("c", "true", func(c *runtimeapi.ContainerConfig) {
					sameNamespaces(own)(c)
					c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", HostPath: dead.Path}}
				}))
				created <- err
			}()
			dead.waiting()
			select {
			case err := <-created:
				t.Fatalf("it was created: %v", err)
			default:
			}
			began := time.Now()
			p.End()
			if took := time.Since(began); took > stopTime {
				t.Errorf("StopPodSandbox and RemovePodSandbox took %v", took)
			}
			err := <-created
			if err == nil {
				t.Error("the container was created")
			} else if answered() == 0 && !strings.Contains(err.Error(), dead.Path) {
				t.Errorf("the error does not name the volume: %v", err)
			}
			if got := shared.pod(t).start("after", "echo fine").Ended(); got.GetExitCode() != 0 {
				t.Errorf("another pod: %v", got)
			}
		})
	}
}
