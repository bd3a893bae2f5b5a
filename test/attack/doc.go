// Attack runs the tests that attack berth and prints what held.
//
//	go run ./test/attack              all of them, on this machine
//	go run ./test/attack -only RE     those whose names match
//	go run ./test/attack -build DIR   DIR becomes all that is needed to run them elsewhere
//	… -in RE                          only the packages whose paths match
//	DIR/attack -run DIR               there, without Go or the sources
//
// The exit code is 1 when an attack succeeded or none was tried.
//
// # What it owns
//
// The convention that makes a test an attack: a function of any package that is
// called TestAttack…, with a doc comment whose first sentence says the attack. A
// subtest is an attack of its own, named after its CVE where it has one, such as
// CVE-2019-5736_overwrite_the_runtime.
//
// # Invariants
//
//   - Every function that the sources name is in the table, also when its
//     package's tests could not start: what did not run did not hold.
//   - One package's tests run at a time, since several look at what the whole
//     machine has.
//
// # Files
//
// DIR has the layout of the repository, as far as tests look at it: go.mod, bin/,
// hack/berthd.service, and for each package with attacks PACKAGE/attack.test beside its testdata; also
// attacks.json (what there is to run), programs/ (see test/program) and attack.
//
// # Why not go test -json
//
// It needs the Go command where the tests run. Precompiled tests print the same
// in their own format, so there is one way for both machines.
package main
