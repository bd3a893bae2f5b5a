// Package metrics counts and measures what the daemon does, and serves the figures in
// Prometheus's text format.
//
// # What it owns
//
// An [Instruments] holds a registry of its own. Package server reports finished
// operations to it (instruments.go): CRI calls and pulls by the Observe options of
// packages cri and image, operations of CNI plugins from its adapters.go. The numbers of
// pods, containers, shims, layers and streams are asked for when somebody reads the
// metrics (state.go; server/observe.go answers). [Instruments.Handler] answers GET /metrics; package server
// puts it on a unix socket or a loopback address. These metrics are of the runtime; those of containers are served by the CRI.
//
// # Invariants
//
// A label's values are bounded, whatever pods, images and registries are named: an
// operation, a gRPC code, a state, a reason; a registry only until there are
// maxRegistries of them. Reporting takes no lock that is held across I/O. Without a
// configured address nothing is served and no numbers are asked for; finished operations
// are counted all the same, so that a reload can turn the metrics on.
//
// Every name begins with berth_; units are seconds and bytes; a counter's name ends
// with _total (https://prometheus.io/docs/practices/naming/).
//
// # Locks
//
// Instruments.mu guards the set of registries that have a label, for map access only.
//
// # Why not the default registry
//
// Libraries put their own metrics there, and a second daemon in one process, as in
// tests, would collide.
package metrics
