// Command sbom prints which modules programs are made of, as SPDX 2.3 in JSON.
//
//	go run ./hack/sbom VERSION PROGRAM...
//
// # What it owns
//
// The form of the list. What is in it the linker has noted in each program.
//
// # Invariants
//
// The same programs give the same bytes: there is no time and no random number in it but
// that of $SOURCE_DATE_EPOCH.
//
// # Files
//
// It reads the programs and writes none.
//
// # Why not a tool that scans the tree
//
// It would list what the tests and tools need, which is not shipped.
package main
