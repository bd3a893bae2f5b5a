// Command house prints figures about the source of berth: sizes, shapes of
// functions and types, tests, and the number of calls between a request and its
// effect. `make house` runs it. The figures before and after a change show whether the
// change made the source easier to read.
//
// # What it owns
//
// The definitions of the figures. "Code" is every Go file outside test/, hack/ and
// *_test.go; "test" is every *_test.go and every Go file below test/. A function's
// length is from its "func" to its closing brace, and its cyclomatic complexity is
// 1 plus its branches (if, for, case, && and ||), function literals included.
//
// # Invariants
//
//   - It reads and prints; it changes nothing, and its exit code tells only whether
//     it could read the tree, never whether a figure is good. The limits are
//     golangci-lint's.
//   - Depth is the number of named functions on the shortest way from a handler to
//     its effect in a static call graph (variable type analysis, package
//     golang.org/x/tools/go/callgraph/vta). A function literal counts as part of
//     the function around it. The way is made to pass the function that sends the
//     request in question to the shim, and in the shim the function that takes it;
//     without that a shorter way for another request would be found.
//   - It finds handlers, requests and effects by what they are (a parameter's type,
//     a constant of the wire, a function of the standard library), so that renaming
//     and moving functions leaves it working.
//
// # Why not in berth's module
//
// The call graph needs golang.org/x/tools, which nothing else in berth needs.
package main
