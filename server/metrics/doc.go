// Package metrics counts and measures what the daemon does, and serves the figures in
// Prometheus's text format.
//
// # What it owns
//
// An [Instruments] holds a registry of its own. The daemon's parts report finished
// operations to it (CRI calls, operations of CNI plugins, pulls), and what exists at a
// moment (pods, containers, shims, layers, streams) is asked of them when somebody
// reads the metrics. [Serve] answers GET /metrics at a unix socket or a loopback
// address. These metrics are of the runtime; those of containers are served by the CRI.
//
// # Invariants
//
// A label's values are bounded, whatever pods, images and registries are named: an
// operation, a gRPC code, a state, a reason; a registry only until there are
// maxRegistries of them. Reporting takes no lock that is held across I/O. Without a
// configured address nothing is served, and nothing is measured but what the daemon
// counts anyway.
//
// Every name begins with berth_; units are seconds and bytes; a counter's name ends
// with _total (https://prometheus.io/docs/practices/naming/).
//
// # Why not the default registry
//
// Libraries put their own metrics there, and a second daemon in one process, as in
// tests, would collide.
package metrics
