// Command bench drives berthd and containerd, both built from source, with one CRI client, in
// one run, turn by turn, and prints what each costs.
//
//	make bench                       pod up, exec, pods/s, growth, statistics, restart, logs, streams, memory, idle CPU, a pull, floors
//	go run ./test/bench pull         pulls alone, of several shapes of image (make bench-pull)
//	go run ./test/bench -before F    beside another build of berthd (F), not containerd
//	BERTH_TEST_HANDLER=runc BERTH_TEST_RUNTIME='runc={type="shim.v2",shim="/…/containerd-shim-runc-v2"}' go run ./test/bench
//	                                 both by containerd's shim
//	go run ./test/bench -h           flags: how often, what only, which binaries
//
// # What it owns
//
// The process tree, mounts, network and cgroups of one run. Two processes: the
// supervisor (outer) starts itself again as the bench (inner) in a mount, PID
// and network namespace of its own. Everything the runtimes make lives there:
// tmpfs over /run and /var/lib, the loopback registry, bridges, netfilter
// rules, daemons and shims. When the inner process ends, however it ends, the
// kernel ends all of it. Only pod cgroups and one directory under $TMPDIR are
// outside; the supervisor removes them last. So no container runtime of the
// machine is touched, and a run that is killed leaves no process behind: only
// those two, which the next run removes.
//
// # Invariants
//
//   - A figure that misses its goal is printed as missed, and the exit code stays 0.
//     Only a failed call is an error.
//   - Runtimes take turns within every measure, and who begins alternates. In those with
//     hundreds of pods each has its own alone, one after the other: they share one table of
//     mounts and one network namespace.
//   - Both get the same pod and container requests, image bytes, registry, CNI
//     plugins and configuration (bridge names and subnets differ), and roots on
//     one tmpfs.
//   - What the kubelet does outside the runtime (the pod's cgroup, its log
//     directory) the bench does outside the clock.
//
// # Locks
//
// [children] guards the set of processes that have an owner waiting for them;
// [report] guards its samples. Neither is held while a runtime is called.
//
// # Files
//
// /run/bench is the tmpfs: registry/ (blobs), berth/ and containerd/ (root,
// state, socket, net.d, certs.d, logs), floor/. $TMPDIR/berth-bench-* holds the
// pull onto the real disk.
//
// # Why not X
//
//   - critest -benchmark: it measures one runtime per run, does not alternate between
//     runtimes, and measures neither memory nor the floors.
//   - go test -bench: it reports one mean (ns/op), and the results here are distributions.
//   - the containerd that is installed on the machine: its state, load and configuration
//     are unknown.
//   - a cgroup namespace: the runtimes would see cgroup paths that no node has.
package main
