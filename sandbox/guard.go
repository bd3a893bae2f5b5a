package sandbox

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// verb is what a client asks for, as far as the state decides whether it can be done.
type verb string

const (
	verbStart     verb = "start"
	verbUpdate    verb = "update"
	verbExec      verb = "exec" // and attach
	verbReopen    verb = "reopen the log"
	verbJoin      verb = "join its PID namespace"
	verbStop      verb = "stop" // and the first step of a removal
	verbCreate    verb = "create a container"
	verbUpdatePod verb = "update the pod"
	verbForward   verb = "forward a port"
)

// action is what a verb does in a state.
type action int

const (
	refuse     action = iota // with ErrState
	carryOut                 // as usual
	killAtOnce               // of a stop: without the stop signal
	nothing                  // what it asks for is so already
)

// containerRule is a verb's row in the table of container states.
type containerRule struct {
	created, running, exited, unknown action
	inReadyPod                        bool   // the pod has to be ready, too
	remedy                            string // follows the state in a refusal
}

// containerTable says what each verb on a container does in each state. A removal is a
// stop and then possible in every state.
var containerTable = map[verb]containerRule{
	verbStart:  {created: carryOut, inReadyPod: true, remedy: ", only a created one can be started"},
	verbUpdate: {created: carryOut, running: carryOut, remedy: "; only a created or running one has limits to change"},
	verbExec:   {running: carryOut, remedy: ", not running"},
	verbReopen: {running: carryOut, remedy: ", not running"},
	verbJoin:   {running: carryOut, remedy: ", not running: its PID namespace can't be joined"},
	// A created container waits at the exec fifo, where no signal of its program means
	// anything.
	verbStop: {created: killAtOnce, running: carryOut, exited: nothing, unknown: carryOut},
}

// podTable says which verbs need a ready pod. A pod can be stopped and removed in every
// state.
var podTable = map[verb]struct{ ready, notReady action }{
	verbCreate:    {ready: carryOut},
	verbUpdatePod: {ready: carryOut},
	verbForward:   {ready: carryOut},
}

// in is the rule's action in a state.
func (r containerRule) in(s runtimeapi.ContainerState) action {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return r.created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return r.running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return r.exited
	default:
		return r.unknown
	}
}

// checkContainer says what a verb does to a container in a state; the error wraps
// [ErrState].
func checkContainer(v verb, id string, state runtimeapi.ContainerState) (action, error) {
	rule := containerTable[v]
	do := rule.in(state)
	if do == refuse {
		return refuse, failed(ErrState, "container %s is %s%s", id, stateWord(state), rule.remedy)
	}
	return do, nil
}

// checkPod refuses a verb that the pod's state does not allow; the error wraps
// [ErrState].
func checkPod(v verb, id string, state runtimeapi.PodSandboxState) error {
	rule := podTable[v]
	do := rule.notReady
	if state == runtimeapi.PodSandboxState_SANDBOX_READY {
		do = rule.ready
	}
	if do == refuse {
		return failed(ErrState, "pod sandbox %s is not ready; run a new one", id)
	}
	return nil
}

// guard says what a verb does to the container as it is now.
func (c *Container) guard(v verb) (action, error) {
	do, err := checkContainer(v, c.id, c.state())
	if err == nil && containerTable[v].inReadyPod {
		err = c.pod.guard(verbCreate)
	}
	return do, err
}

// guard refuses a verb that the pod's state does not allow now.
func (s *Sandbox) guard(v verb) error { return checkPod(v, s.id, s.state()) }

// CanExec is nil, or why nothing can be executed in or attached to the container; the
// error wraps [ErrState].
func (st *ContainerStatus) CanExec() error {
	_, err := checkContainer(verbExec, st.ID, st.State)
	return err
}

// CanForward is nil, or why no port of the pod can be connected to; the error wraps
// [ErrState].
func (st *PodStatus) CanForward() error { return checkPod(verbForward, st.ID, st.State) }

func stateWord(s runtimeapi.ContainerState) string {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return "created"
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return "running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return "exited"
	default:
		return "in an unknown state"
	}
}
