// Package hostcheck tells whether a machine can run pods, and what to change
// where it can't: `berth check`.
//
// # What it owns
//
// The list of checks (checks.go). Each looks at one thing and gives one
// [Finding]: fine, a restriction that berthd works around, or a failure that
// keeps pods from running, with what to do about it.
//
// # Invariants
//
//   - A check changes nothing that lasts: the one that mounts an overlay does so
//     in a directory of its own and takes both away again.
//   - A check never fails silently: what can't be found out is a finding too.
//   - It needs no running daemon.
//   - It asks no host that hosts.toml does not name, and each for five seconds at most.
//
// # Files
//
// One temporary directory in the root's filesystem while it runs.
//
// # Why not in the daemon's start
//
// The daemon starts and does the most it can on a machine that lacks something;
// telling all that is missing at once is for the person who sets it up.
package hostcheck
