// Package testlog reads what a compiled test binary prints with
// -test.v=test2json.
//
// # What it owns
//
// [Reader], which notes the [Outcome] of every test function and subtest, with the
// last lines that each printed.
//
// # Invariants
//
//   - A line that a test prints is never taken for the testing package's word: that has
//     a mark in front, which is why the flag is test2json and not true.
//   - The lines kept of a test are bounded in number and length.
//
// # Why not go test -json
//
// It needs the Go command where the tests run.
package testlog
