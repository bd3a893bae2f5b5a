// Package collector receives traces as an OpenTelemetry collector does, for tests.
//
// # What it owns
//
// [Collector]: a gRPC server of OTLP's TraceService, and the spans it was sent.
//
// # Invariants
//
// What it was sent is kept until the test ends. It is never slow and never refuses.
//
// # Why not the library's recorder
//
// Tests look at what another process sends, in the bytes that leave it.
package collector
