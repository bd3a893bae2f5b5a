// Package explain tells an operator why a pod or container is as it is: `berth
// explain` and `berth audit`.
//
// # What it owns
//
// [Open] reads the records of a node; [Pods.Explain] looks at one pod or
// container layer by layer (process, filesystem, namespaces, cgroup, security,
// network) and ends with the finding that most likely explains a failure;
// [Pods.Audit] lists what weakens the isolation of every running container.
//
// # Invariants
//
//   - Nothing is asked of the daemon: intent comes from its records, facts from
//     the shim's and from the kernel, and each [Fact] names the file it was read
//     from. It works on a node whose daemon is dead.
//   - It changes nothing. A process is looked at only while its start time is the
//     recorded one, so that a PID used again is never taken for it.
//   - What can't be read is a fact too; it is never left out silently.
//   - What a workload can write or replace is hostile: only regular files are opened,
//     without following links, after a look at what they are; reads are bounded, and
//     a file system that does not answer is waited for a few seconds. Values are kept
//     as they were read, and escaped by package printable where they are printed.
//   - A [Finding] says what was seen and what to do. The strongest one of a report
//     is its last line; strengths are the constants of report.go and nothing else.
//
// # Files
//
// It writes none. It reads ROOT/pods, /proc, /sys/fs/cgroup and the pods' logs.
//
// # Why not over the CRI
//
// The question is asked most urgently when the daemon does not answer, and the
// daemon's word is what is in doubt. Its records are one JSON file a pod and
// container, made to be read; their types are in sandbox/record, which has no code of
// the domain. Fields of records are only ever added.
package explain
