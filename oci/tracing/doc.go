// Package tracing marks what a call does as spans of the caller's trace (OpenTelemetry).
//
// # What it owns
//
// [Begin], by which the packages below the CRI name a step of a call, and the translation
// of stages that a shim has measured ([Report]). Where spans go is decided by package
// server/traces, which puts the first one in the context of a call.
//
// # Invariants
//
//   - A context without a recorded span costs a look at the context: no time is taken, no
//     memory allocated. There is no global state.
//   - An attribute is an ID, a name, a digest, a host or a count. No value of a request's
//     environment, annotations, labels or credentials is one, and no command line. The
//     text of an error is no more than the log has of it.
//
// # Why not spans made by the shim
//
// It would have to link gRPC and an exporter, and hold a connection for each trace, which
// is more memory than the rest of it. It tells the daemon when its stages began and ended
// instead, by the same clock, and only when it is asked.
//
// # Why not the global tracer of the library
//
// It would go where the first one to set it says, also in tests, and every span asks it
// through an interface even when nothing is traced.
package tracing
