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
// (test/registry). Some thirty small images share layers in every way: equal
// bottoms, the same blob over different ones, equal layers with different
// configurations, one image under two names, behind an index, of many layers, and
// a tag that moves. They are pulled and removed by tag, by digest, by both and by
// ID; some pulls are given up on the way. Pods hold layers while their images are
// removed. berthd is killed (SIGKILL) at random moments, also while it starts.
//
// # Invariants
//
//   - A call fails only because the daemon was killed during it, or because the
//     client gave it up; whatever else fails is an error of the run.
//   - A call that succeeded holds: every client has images that only it touches and
//     knows which are there, kills or not ([private]).
//   - What a container holds is there, byte for byte, and the container runs on.
//   - After each of ten rounds, of the daemon that is there and again after one more
//     kill: every listed image is whole, by berth's own check and by comparing each
//     layer's tree with the one that an undisturbed pull made; layers/ and images/
//     hold what is listed and nothing else; du, the sizes of what is listed and
//     ImageFsInfo agree, in bytes and inodes.
//   - It ends after -n operations or -timeout, and leaves nothing (node.Close).
//
// # Locks
//
// [tally] guards its counts; outages are counted by atomics. Each client has its
// own connection, random numbers and pods, and only the killer touches the daemon.
//
// # Why the registry is this process and tmpfs is the disk
//
// What is looked for is order and bookkeeping. On a disk most of the time would go
// to syncfs, and ten times fewer pulls would be under way when the daemon dies.
// SIGKILL loses no page cache, so a disk would show nothing more.
package main
