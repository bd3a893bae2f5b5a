// Command churn pulls and removes images at random while berthd is killed, and
// then compares what is listed with what is on disk.
//
//	go run ./test/churn              10,000 pulls and removals by eight clients
//	go run ./test/churn -n 300       a short run
//	go run ./test/churn -seed 7      the same choices again (not the same timing)
//
// # What it owns
//
// One node (test/node) on a tmpfs of its own with a registry on loopback
// (test/registry). Some thirty small images share layers in every way: the same lowest
// layers, the same blob on top of different layers, equal layers with different
// configurations, one image under two names, an image behind an index, an image of many
// layers, and a tag that moves. They are pulled and removed by tag, by digest, by both and
// by ID; some pulls are cancelled by their client. Pods hold layers while their images are
// removed. berthd is killed (SIGKILL) at random moments, also while it starts.
//
// # Invariants
//
//   - A call may fail only because the daemon was killed during it, or because the
//     client cancelled it; any other failure is an error of the run.
//   - A call that succeeded has a lasting effect: every client has images that only it
//     pulls and removes, and knows which of them must be listed after any kill ([private]).
//   - The files of a running container are complete, byte for byte, and it keeps running.
//   - After each of ten rounds, and again after one more kill, every listed image is
//     complete, according to berth's own check and to a comparison of each layer's tree
//     with the tree of an undisturbed pull. The directories layers/ and images/ contain
//     what is listed and nothing else. du, the listed sizes and ImageFsInfo agree, in
//     bytes and inodes.
//   - It ends after -n operations or -timeout, and leaves nothing (node.Close).
//
// # Locks
//
// [tally.Tally] guards its counts; outages are counted by atomics. Each client has its
// own connection, random numbers and pods, and only the killer touches the daemon.
//
// # Why not a disk and a registry process
//
// The test looks for errors in the order of steps and in reference counts. On a disk most
// of the time would be spent in syncfs, and ten times fewer pulls would be in progress
// when the daemon is killed. SIGKILL loses no page cache, so a disk would show no more
// errors. A registry in this process can also fail at chosen moments.
package main
