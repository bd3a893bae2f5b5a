// Package sandbox is the domain: pod sandboxes and their containers.
//
// # What it owns
//
// Every pod sandbox and container of the node, in memory and as records on disk, and the
// verbs of the CRI on them. It knows nothing of gRPC, registries or CNI: images, networks,
// its own mounts and the plugins of the node are small interfaces ([Images], [Network],
// [Mounts], [Plugins]), processes are the shim's. [Runtime] is what others see. It consists
// of
//
//   - layout (layout.go): where everything is on disk
//   - index (index.go): the pods and containers by ID, by name and by pod
//   - podPlan (plan.go) and containerPlan (containerplan.go): what is decided about a pod
//     or container, and refused, before anything is made for it. The rules are those of
//     package oci and, for pods, those of rules.go and sysctls.go
//   - SELinux levels and labels (selinux.go): each pod has a level that no other has
//   - podVerbs (run.go, stop.go, remove.go, update.go) and containerVerbs (create.go and
//     the same): the verbs. Which verb applies in which state is one table (guard.go),
//     what a repeated call gets is in retry.go and package inflight
//   - teardown (destroy.go, stop.go, lost.go): ends and releases, whoever asks for it
//   - recovery (load.go, recover.go, settle.go): what earlier daemons left
//   - shimWatch (watch.go, lost.go): what the shims report
//   - endings (endings.go): ends in the background that no verb asked for
//   - sessions (exec.go, portforward.go): streams of clients
//   - teller (tell.go): which steps plugins of the node are told, once each and in order
//   - statistics (stats.go, podstats.go, measures.go and the readers of cgroups; each
//     file is read once a call, and some are kept open between calls, keptfiles.go)
//   - subjects (subject.go): pods and containers for those who watch their cgroups
//   - health (ready.go): whether pods can run on this node
//
// # Invariants
//
//   - Record first, destroy last: a pod's directory exists before anything is
//     acquired for it and goes after all is released. One idempotent destroy
//     serves a failed run, Stop and Remove, and recovery.
//   - On its way out a pod goes ready → stopping → stopped → removing. Each step is
//     recorded before it begins, so that a daemon that finds it finishes it.
//   - Intent and fact: this package writes pod.json and container.json (what is
//     wanted), the shim writes status.json (what happened). No file has two writers.
//   - A record changes only through stored.change, one change at a time, in memory and
//     in its file.
//   - State is never stored: podState and containerState derive it from intent,
//     fact and the boot ID. State changes only in state.go.
//   - Names are functions of the ID (layout.go), so that every leak can be found
//     by listing.
//   - A pod or container whose record names a shim is held by that shim. What the shim
//     does not list, at the start and after another took its place, is ended (lost.go).
//   - One goroutine takes in the events of all shims, in their order, and waits for nothing.
//     The ends that an event asks for are carried out by endings: those of a pod one at a
//     time and in the order of the events, those of several pods side by side. What an
//     event says of a container need not wait for an end of it: a status only goes forward,
//     and an end first reads what the shim has recorded.
//   - A start waits one second, in all, until what earlier daemons left is ended and released.
//     The rest is done in the background: first, of each pod, the ends of what has no shim any
//     more, then its release, by verbs of those pods (settle.go).
//   - When the daemon is to end, an end or a release that has not begun is left to the next
//     daemon, and one under way, whose time is bounded, is not waited for.
//   - A stop never waits for the creation of a container: it cancels that. A system call
//     that may block in the kernel all the same, such as a stat of a path on a dead NFS
//     server, runs on a goroutine that can be left behind (look.go).
//   - Exit is a broadcast: done of a sandbox or container is a closed channel.
//   - The size of a writable layer is measured in the background, four layers at a time
//     (layerusage.go). No call for statistics waits for a large one.
//
// # Locks
//
//  1. index.mu guards the maps, never held across I/O.
//  2. slot of a Sandbox, then slot of a Container: one verb at a time, waiting
//     obeys the context. A stop takes no slot of a container: it signals, waits
//     for done, kills.
//  3. told.turn of a Sandbox or Container, held while plugins are told of it.
//  4. stored.writer of a record, held while its file is written.
//  5. mu of a Sandbox or Container guards the facts in memory; it is held
//     for assignments only, and innermost.
//  6. keptFiles.mu is read-locked while a file of a cgroup is read, and held to open or close
//     one. layerUsage.mu guards the last measure of a layer, usageSample.mu the last reading
//     of the CPU, silence.mu when a foreign shim is asked again, looks.mu which paths of the
//     host are looked at, health.mu why the node may not be ready, shimWatch.mu the pods in
//     quarantine, endings.mu which end of a pod is the last; for assignments only.
//
// Readers take none of 2 to 5: a status is an immutable value behind an atomic
// pointer, and so is a record, so List, Status and Stats never wait for a verb.
//
// # Files
//
//	ROOT/pods/POD/pod.json                       intent, see package record
//	ROOT/pods/POD/status.json                    fact (shim): the pause process
//	ROOT/pods/POD/{hostname,hosts,resolv.conf}   bound into the containers
//	ROOT/pods/POD/containers/CTR/container.json  intent
//	ROOT/pods/POD/containers/CTR/status.json     fact (shim)
//	ROOT/pods/POD/containers/CTR/{upper,work}    writable layer
//	STATE/pods/POD/{net,shm}                     pinned netns, tmpfs of /dev/shm
//	STATE/containers/CTR/rootfs                  overlay mount
//	/sys/fs/cgroup/…/PARENT/{POD,CTR}            cgroups; POD on v1 in the hierarchy cpu alone, without a process
//	ROOT/quarantine/POD                          a pod whose record can't be read
//	ROOT/init-HASH                               the program in containers that need one of ours (init.go), made for the first
//
// # Why not a database
//
// A record is read once, at start, and written by one owner; a directory per
// pod makes the unit of damage one pod and lets an operator look with ls.
package sandbox
