// Package traces sends the daemon's spans to a collector (OpenTelemetry, OTLP over gRPC).
//
// # What it owns
//
// The exporter and its queue, the decision which calls are recorded, and the option by
// which a gRPC server continues the trace of its client, such as the kubelet. The steps of
// a call are named where they are done, see package oci/tracing.
//
// # Invariants
//
//   - No call waits for the collector. Spans wait in a queue of a fixed length; when the
//     collector is slow or gone they are dropped.
//   - A caller that is not traced is recorded at most at the configured rate.
//   - Nothing of this is made unless a collector is configured.
//
// # Why not the collector's address by the environment
//
// The OTEL_ variables of the exporter work (headers, certificates, timeouts), but an
// operator looks for an address in the configuration file, and `berth check` too.
package traces
