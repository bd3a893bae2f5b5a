package crash

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// TestKilledAtRandom kills the daemon while others (the shim, a plugin, the
// registry) work for it, which the steps of the daemon itself do not show.
func TestKilledAtRandom(t *testing.T) {
	soak(t)
	d := start(t, node.Options{})
	d.watch()
	d.randomly(slices.Sorted(maps.Keys(verbs)))
}

// TestKilledAtRandomWithAShimEach: a shim comes and goes with each pod.
func TestKilledAtRandomWithAShimEach(t *testing.T) {
	soak(t)
	d := start(t, node.Options{Tmpfs: true, Args: []string{"--pods-per-shim", "1"}})
	d.watch()
	d.randomly([]string{"RunPodSandbox", "RemovePodSandbox", "CreateContainer"})
}

// randomly cuts each verb short a few times.
func (d *daemon) randomly(which []string) {
	const kills = 3 // a verb
	t := d.t
	before := d.facts()
	numbers := random(t)
	for _, verb := range which {
		took := d.uncut(verbs[verb](d))
		d.settled("after "+verb+" and its opposite", before)
		for i := range kills {
			// One in each part of the time, so that no part is left out by chance.
			delay := time.Duration((float64(i) + numbers.Float64()) / kills * 1.1 * float64(took))
			if !t.Run(fmt.Sprintf("%s/%v", verb, delay.Round(10*time.Microsecond)), func(t *testing.T) {
				defer d.as(t)()
				a := verbs[verb](d)
				_ = during(t, a, delay, d.kill)
				d.restart()
				a.judge()
				d.settled("after "+verb+" and its opposite", before)
				d.witness.stillRuns()
			}) {
				before = d.facts()
			}
		}
	}
	d.unnoticed()
}

// uncut makes the call in peace and tells how long it took.
func (d *daemon) uncut(a attempt) time.Duration {
	d.t.Helper()
	began := time.Now()
	if err := a.call(within(d.t)); err != nil {
		d.t.Error(err)
	}
	took := time.Since(began)
	a.judge()
	return took
}

// TestKilledInAStorm kills the daemon while pods are made and removed on all sides.
func TestKilledInAStorm(t *testing.T) {
	soak(t)
	const pods, storms = 8, 3
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	before := d.facts()
	numbers := random(t)
	for range storms {
		var configs []*runtimeapi.PodSandboxConfig
		for i := range pods {
			configs = append(configs, d.podConfig(fmt.Sprint("storm-", i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for _, c := range configs {
			all.Go(func() { d.liveAndDie(ctx, c) })
		}
		time.Sleep(time.Duration(numbers.IntN(400)) * time.Millisecond)
		d.kill()
		cancel()
		all.Wait()
		d.restart()
		for _, c := range configs {
			for _, found := range d.find(c) {
				p := d.podOf(found.GetId(), c)
				p.wantContainers(runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED)
				p.Remove()
			}
		}
		d.settled("after a storm", before)
	}
	d.unnoticed()
}

// liveAndDie goes through a pod's life until something fails or ctx ends.
func (d *daemon) liveAndDie(ctx context.Context, c *runtimeapi.PodSandboxConfig) {
	rt := d.Runtime
	for ctx.Err() == nil {
		r, err := rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c})
		if err != nil {
			return
		}
		p := d.podOf(r.GetPodSandboxId(), c)
		made, err := rt.CreateContainer(ctx, p.Request(client.Shell("c", "sleep 1000")))
		if err != nil {
			return
		}
		if _, err := rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
			return
		}
		if _, err := rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			return
		}
	}
}

// TestKilledWhileItRecovers: what one daemon did not finish, and the next did
// not either, the third does.
func TestKilledWhileItRecovers(t *testing.T) {
	soak(t)
	const rounds = 3
	// Steps where most is left to be done: the network is attached, and not much
	// of the pod is gone.
	steps := map[string]int{"RunPodSandbox": 24, "StopPodSandbox": 8, "RemovePodSandbox": 8}
	d := start(t, node.Options{Tmpfs: true})
	d.watch()
	before := d.facts()
	numbers := random(t)
	for verb, n := range steps {
		for i := range rounds {
			a := verbs[verb](d)
			tr := trace(t, d.PID(), n, d.Dir)
			_ = a.call(within(t)) // it is killed
			d.kill()
			if tr.killed(t) == "" {
				t.Fatalf("%s has less than %d steps", verb, n)
			}
			ended := make(chan error, 1)
			go func() { ended <- d.Restart(t.Context()) }()
			// A start with work to do takes some 150 ms.
			time.Sleep(time.Duration((float64(i) + numbers.Float64()) / rounds * float64(150*time.Millisecond)))
			d.kill()
			<-ended  // with an error, or just ready
			d.kill() // it was not even started
			d.restart()
			a.judge()
			d.settled("after a recovery that was killed", before)
		}
	}
	d.unnoticed()
}

// during makes the call of a, kills in the middle of it, and gives what it answered.
func during(t *testing.T, a attempt, delay time.Duration, kill func()) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- a.call(ctx) }()
	time.Sleep(delay) // the moment of the kill is what is tested
	kill()
	return <-answered
}
