// Package operator is the gRPC service berth.v1.Operator: what an operator
// needs of a running berthd and the CRI does not have. It is served on the CRI
// socket; `berth` is its client.
//
// # What it owns
//
// The wire of five calls, both ends of it ([Register], [Client]). What they do
// is behind [Backend], so that a client links neither the domain nor a registry.
//
// # Invariants
//
//   - Data travels as wrapperspb.BytesValue in chunks of at most 1 MiB,
//     everything else as JSON in a wrapperspb.StringValue. Fields are only added.
//   - A stream of progress ends with exactly one message that has a result;
//     without it the call has failed.
//
// # Why not protoc
//
// Five calls whose messages are a line of JSON or a chunk of bytes do not pay
// for a code generator in the build. The well-known wrapper types let any gRPC
// tool look in.
package operator
