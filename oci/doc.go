// Package oci builds the runtime-spec of a container.
//
// # What it owns
//
// [Spec] and its helpers turn a CRI configuration, an image's configuration and
// the host's facts into a runtime-spec. They are pure functions. The lookups that
// read the host stand apart: [DetectHost], [ResolveUser] and [ResolveDevices].
// Package oci/shims hands the result to a shim, which starts the container.
//
// # Invariants
//
// The package needs no cgo, starts no process and writes no file. The result of
// [Spec] depends on its arguments alone, so golden files test it without root.
//
// # Why not X
//
// Why not libcontainer's or containerd's generators: both read the host while they
// build, so that their result can only be tested on a machine set up for it.
package oci
