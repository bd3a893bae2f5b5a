// Package shimapi is the wire between berthd and berth-shim.
//
// It owns: the methods and their bodies, and the framing. A call is one unix
// stream connection: the client sends one [Request] frame, the shim answers one
// [Response] frame (exec two, watch many), and the end of the connection is the
// end of the call. A frame is a length of 4 bytes, big-endian, and that many
// bytes of JSON; file descriptors ride with its first byte.
//
// Invariants: the wire only grows, so that any daemon talks to any older shim. A
// frame is at most [MaxFrame] bytes and [MaxFiles] files, whatever the peer says;
// memory is taken as bytes arrive, not as they are announced. Whoever is lent a
// duplicate of a container's stdin closes it when a record says StdinClosed, else
// the container would never see the end.
//
// Locks: none. Files on disk: [Record] is also the form of status.json.
//
// Why not gRPC or ttrpc: the shim is paid for in every node's memory, and a
// dozen calls with one body each need no stub generator. Why one connection per
// call: cancelling is closing, exec and attach need a connection of their own
// anyway, and a slow call holds up no other.
package shimapi
