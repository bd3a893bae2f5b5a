// Command critest runs critest v1.37.0, the CRI's conformance suite, against
// bin/berthd, and prints how many specs passed, failed and were skipped, and
// which failed.
//
// # What it owns
//
// Building critest (in the nested module tool, whose go.mod pins it), a registry
// with every image it wants (test/registry), a berthd of its own (test/node),
// and the report.
//
// # Invariants
//
// It fails when a spec fails or when something is left on the machine afterwards.
//
// # Files
//
//	bin/critest                 the suite, built when go says it is stale
//	bin/critest-report.json     ginkgo's report of the last run
//	bin/critest.log             what the suite printed
//
// # Why not critest exactly as released
//
// The spec "public image with digest should be pulled and removed" names the digest
// of an image in a public registry, which this test must not need. The bytes of that
// image can't be made here, and a runtime that accepted other bytes under its digest
// would be broken. The build therefore replaces the digest in that one file by the
// digest of an image made here. Everything else is critest as released.
package main
