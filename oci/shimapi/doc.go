// Package shimapi is the wire between berthd and berth-shim.
//
// # What it owns
//
// The methods and their bodies, the framing, and the names of files, events and exit
// reasons that both sides use. A call is one unix stream connection: the client sends one
// [Request] frame, the shim answers with one [Response] frame (exec and attach with two,
// watch and lend-all with many), and the end of the connection is the end of the call. A frame is a
// length of 4 bytes, big-endian, and that many bytes of JSON. File descriptors are sent
// with its first byte.
//
// # Invariants
//
//   - The wire only grows: any daemon can talk to any older shim.
//   - A frame has at most [MaxFrame] bytes and [MaxFiles] files, whatever the peer
//     announces. Memory is allocated as bytes arrive, not as they are announced.
//   - Whoever has a duplicate of a container's stdin closes it when a record says
//     StdinClosed. Otherwise the container would never see the end of its input.
//
// # Files
//
// [Record] is also the content of status.json, [HelloResponse] that of shim.json.
//
// # Why not X
//
// Why not gRPC or ttrpc: every node pays for the shim's memory, and two dozen calls with one
// body each need no stub generator.
//
// Why not one connection for all calls: cancelling a call is closing its connection, exec
// and attach need a connection of their own anyway, and a slow call holds up no other.
package shimapi
