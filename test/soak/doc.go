// Command soak makes random calls from many clients for a long time, kills berthd and its
// shims meanwhile, and compares every answer with a model of what must be so.
//
//	go run ./test/soak                     all phases, an hour together
//	go run ./test/soak -phases steady -for 1h
//	go run ./test/soak -seed 7             the same choices again (not the same timing)
//	make soak SOAK="-for 30m"              the same with programs built with -race for kills
//
// # What it owns
//
// Four phases, each on a node (test/node) of its own on a tmpfs:
//
//   - steady: no kills. After each round, in which all pods went, what berthd and the shim
//     hold (descriptors, goroutines, threads, memory) and what the machine has (processes,
//     mounts, links, rules, cgroups, files) is compared with what it was after the first.
//   - kills: berthd or the shim is killed (SIGKILL) every few seconds, also while it
//     starts, now and then both at once. Programs built with -race are used where -race
//     names a directory that has them.
//   - probes: 50 pods with an exec every 100 ms each, under 100 kills each of berthd and of
//     the shim.
//   - lives: 10,000 pods with a container come and go, one in ten with a network of its own,
//     and what is held is compared as in steady.
//
// In all but probes each client has some pods that only it knows, so that it knows at any
// time what they may be ([container], [pod]). In steady and kills it runs, creates, starts, executes, writes to
// logs and has them rotated, updates, stops, removes, asks for statuses, lists and
// statistics, pulls and removes images, and makes some calls twice at once.
//
// # Invariants
//
//   - What was answered with success is seen from then on, after any kill.
//   - A call may fail only because a program was killed during it, or because the model
//     says so (an exec in what has ended). Then the thing is as before the call or as
//     after it; the next answer decides, and is held to.
//   - An exit code is exactly that of the program, and never changes, nor does its time.
//     255 with ContainerStatusUnknown is right only after berthd and the shim were dead at
//     the same time.
//   - No pod is stuck: every call ends within [patience], and in the end all goes.
//   - After each round the machine has what it had after the first.
//   - A violation is told with the story of its container: each call and each answer.
//
// # Locks
//
// [tally.Tally] guards its counts; outages are counted by atomics. Each client has its own
// connection, random numbers and pods. Only the killer touches the programs.
//
// # Why not properties of random sequences in one process
//
// The model is the same, but the faults looked for are in how the kernel, two programs and
// sixteen clients meet. A sequence that failed is not shrunk; the story is short instead.
package main
