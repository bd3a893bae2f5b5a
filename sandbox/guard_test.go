package sandbox

import (
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The whole table, written out by hand beside the one that is used: created, running,
// exited, unknown; then in a pod that is not ready.
func TestGuard(t *testing.T) {
	states := []runtimeapi.ContainerState{ctrCreated, ctrRunning, ctrExited, runtimeapi.ContainerState_CONTAINER_UNKNOWN}
	want := map[verb][4]action{
		verbStart:  {carryOut, refuse, refuse, refuse},
		verbUpdate: {carryOut, carryOut, refuse, refuse},
		verbExec:   {refuse, carryOut, refuse, refuse},
		verbReopen: {refuse, carryOut, refuse, refuse},
		verbJoin:   {refuse, carryOut, refuse, refuse},
		verbStop:   {killAtOnce, carryOut, nothing, carryOut},
	}
	if len(want) != len(containerTable) {
		t.Errorf("%d verbs on containers, %d are tested", len(containerTable), len(want))
	}
	for v, row := range want {
		for i, state := range states {
			got, err := checkContainer(v, "id", state)
			if got != row[i] || (err != nil) != (row[i] == refuse) || err != nil && !errors.Is(err, ErrState) {
				t.Errorf("%s of a container that is %s: %v, %v; want %v", v, stateWord(state), got, err, row[i])
			}
		}
	}
	for v := range podTable {
		if err := checkPod(v, "id", podReady); err != nil {
			t.Errorf("%s in a ready pod: %v", v, err)
		}
		if err := checkPod(v, "id", podStopped); !errors.Is(err, ErrState) {
			t.Errorf("%s in a pod that is not ready: %v, want ErrState", v, err)
		}
	}
}

// The verbs obey the table, whichever way a client asks.
func TestVerbsObeyTheGuard(t *testing.T) {
	n := newFakeNode(t)
	pod := n.pod("a")
	created, running, ended := n.create(pod, "created"), n.run(pod, "running"), n.run(pod, "ended")
	if err := n.m.StopContainer(t.Context(), ended, 0); err != nil {
		t.Fatal(err)
	}
	cmd := []string{"true"}
	verbs := map[verb]func(id string) error{
		verbStart: func(id string) error { return n.m.StartContainer(t.Context(), id) },
		verbExec: func(id string) error {
			_, err := n.m.ExecSync(t.Context(), id, cmd, 0)
			return err
		},
		verbReopen: func(id string) error { return n.m.ReopenLog(t.Context(), id) },
		verbUpdate: func(id string) error {
			return n.m.UpdateContainer(t.Context(), id, &runtimeapi.LinuxContainerResources{CpuShares: 9}, nil)
		},
		verbJoin: func(id string) error {
			cfg := containerConfig("debug-" + id[:4])
			ns := cfg.Linux.SecurityContext.NamespaceOptions
			ns.Pid, ns.TargetId = runtimeapi.NamespaceMode_TARGET, id
			_, err := n.m.CreateContainer(t.Context(), pod, cfg, nil)
			return err
		},
	}
	for v, do := range verbs {
		for id, state := range map[string]runtimeapi.ContainerState{created: ctrCreated, running: ctrRunning, ended: ctrExited} {
			if v == verbStart && state == ctrCreated {
				continue // it would change the state for the others
			}
			err := do(id)
			if allowed := containerTable[v].in(state) == carryOut; allowed == errors.Is(err, ErrState) || allowed && err != nil {
				t.Errorf("%s of a container that is %s: %v, allowed %t", v, stateWord(state), err, allowed)
			}
		}
	}
	if err := n.m.StopPod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	_, err := n.m.CreateContainer(t.Context(), pod, containerConfig("late"), nil)
	wantError(t, "create in a stopped pod", err, ErrState)
	wantError(t, "update of a stopped pod", n.m.UpdatePodResources(t.Context(), pod, nil, nil), ErrState)
	wantError(t, "port-forward to a stopped pod", n.m.PortForward(t.Context(), pod, 80, nil), ErrState)
	wantError(t, "the status of a stopped pod", n.podStatus(pod).CanForward(), ErrState)
	wantError(t, "the status of an ended container", n.container(ended).CanExec(), ErrState)
}
