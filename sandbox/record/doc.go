// Package record is the form of the daemon's records on disk: pod.json and
// container.json.
//
// # What it owns
//
// The JSON of [Pod] and [Container], their file names and the version of their form.
// Package sandbox writes them; the operator's program reads them while the daemon may
// not run.
//
// # Invariants
//
//   - A field is never renamed or given another meaning: a node can be rolled back to
//     an older daemon. A reader ignores fields that it does not know, and refuses a
//     record of a newer [Version].
//   - A message of the CRI is kept as the JSON of its proto definition, so that no field
//     that the kubelet sent is lost and a person can read it.
//
// # Files
//
//	ROOT/pods/POD/pod.json                       [Pod]
//	ROOT/pods/POD/containers/CTR/container.json  [Container]
//	beside either, status.json                   written by the shim, see shimapi.Record
//
// # Why not in package sandbox
//
// Who only reads a record would have to link the whole domain, or repeat the names of
// its fields, which nothing would compare.
package record
