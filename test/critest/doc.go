// Command critest runs critest v1.37.0, the CRI's conformance suite, against
// bin/berthd, and prints how many specs passed, failed and were skipped, and
// which failed.
//
// # What it owns
//
// Building critest (in the nested module tool, whose go.mod pins it), a registry
// with every image it wants (test/registry), a berthd of its own (test/node),
// and the report. It fails when a spec fails or when something is left on the
// machine afterwards.
//
// # Files
//
//	bin/critest                 the suite, built when go says it is stale
//	bin/critest-report.json     ginkgo's report of the last run
//	bin/critest.log             what the suite printed
//
// # Why one literal of critest is replaced
//
// The spec "public image with digest should be pulled and removed" has the
// digest of an image in a registry that this test must not need. Its bytes can't
// be made here, and a runtime that accepted others under that digest would be
// broken. The build overlays the one file with the digest of our own image; all
// else is critest as released.
package main
