// Package idmap has the ID map of a user namespace, in the form in which berth's packages
// pass it on.
//
// # What it owns
//
// [Map], and its conversion for the start of a process.
//
// # Invariants
//
// The JSON form is part of the protocol between daemon and shim, which may be of different
// versions: fields are added to it, and none is removed or renamed.
//
// # Why not the types of the CRI or the runtime-spec
//
// The shim must not link the CRI, and package image needs neither of the two.
package idmap
