// Package client is the CRI client of tests, benchmarks and the demo.
//
// # What it owns
//
// Two layers. [Client] makes the calls that a kubelet makes of a pod or a container
// and returns errors that name the call; benchmarks, the churn and the demo use it.
// [Kit] makes pods for one test: its [Pod] and [Container] end the test when a call
// fails that the test is not about. A call that one test alone makes is made there,
// through [Client.Runtime] and [Client.Images].
//
// # Invariants
//
//   - An error keeps its gRPC code: status.Code sees through the call's name.
//   - Each call of a Kit has a deadline, [Patience], which no healthy runtime needs.
//   - It knows the CRI only. What berth keeps on disk or puts into the verbose part
//     of a status, but for a container's process ID, is for the tests to know.
//
// # Locks
//
// None. [Client.Redial] must not run beside a call.
//
// # Why not crictl
//
// A process for each call would be most of the time that the benchmarks measure,
// and its output would have to be read back.
package client
