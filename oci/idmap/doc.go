// Package idmap is the one form in which berth passes the ID maps of user namespaces on.
//
// # What it owns
//
// [Map], and its conversion for the start of a process.
//
// # Invariants
//
// The JSON form is part of the wire between daemon and shim, so it only grows.
//
// # Why not X
//
// Why not the types of the CRI or the runtime-spec everywhere: the shim must not link the
// CRI, and package image needs neither.
package idmap
