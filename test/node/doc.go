// Package node runs a berthd of its own for tests and checks that it leaves
// nothing behind.
//
// # What it owns
//
// [Start] starts bin/berthd with private directories, socket, bridge and
// subnet below one directory and waits until it says that it is ready
// (sd_notify). [Node.Kill], [Node.Stop] and [Node.Restart] do what an operator
// or a crash does. [Node.Close] removes every pod and image through the CRI,
// ends the daemon, and returns an error that lists what is left on the machine:
// processes, mounts, network devices, NAT rules, cgroups, files. Then it cleans
// up, whatever the daemon did.
//
// # Invariants
//
//   - Nothing outlives the test process, even one that is killed: berthd runs
//     below a keeper, a re-execution of the test binary that is the subreaper of
//     everything started below it, and that kills it all and cleans up when the
//     pipe to the test process closes. So it also knows every process by
//     descent, however it is named.
//   - Readiness, exits and emptiness are events of the keeper's pipe; nothing is
//     slept for.
//   - Nodes run side by side: what is shared (NAT chains of the portmap plugin,
//     ip_forward) is put back only when no other bridge is on the machine.
//
// # Locks
//
// Node.mu guards what the event reader notes (pods seen, exits).
//
// # Files
//
//	DIR/{root,run,net.d,certs.d,logs,berthd.log}  gone after Close; berthd.log is
//	copied to $BERTH_TEST_LOGS when that is set
//
// # Why not a keeper program of its own
//
// It would have to be built before `go test` could be run. The keeper is the test binary.
package node
