// Package cri is the wire: the RuntimeService and ImageService of the
// Kubernetes CRI v1, the streaming server behind Exec, Attach and PortForward,
// and berth's own operator service.
//
// # What it owns
//
// Decoding of requests, checks of their form (that what a call is about is there, and
// that nothing of it is long without end; what is asked for is judged by the domain's
// plans), one call of the domain ([Domain]) or of
// the image store, and encoding of what it says. The only table from errors to gRPC
// codes ([toStatus]). The interceptors: readiness, log line, statistics of calls, panics.
// The names of the containers' metrics (metricnames.go) and their encoding (podmetrics.go).
//
// # Invariants
//
//   - A handler is decode and validate → one domain call → encode.
//   - What a retry of a call means is the domain's to say, see package inflight. A pull
//     and the removal of an image, which are not the domain's, go through the same Calls.
//   - Lists are served from the domain's snapshots and never wait for a verb.
//   - No list grows beyond what the kubelet takes in one message; see fit.go.
//   - No request is logged as a whole: it may hold a registry's password.
//   - A connection to the streaming port that has shown no token costs little and
//     ends within seconds; see stream_guard.go. Tokens work once, for a minute.
//   - A stream's context ends with its client's connection, whichever side closes it
//     and also while nothing reads from it, and with it all that the stream began.
//   - A client whose stream the daemon ends, because it stops, gets a failure before
//     the daemon leaves.
//
// # Locks
//
// callStats.mu guards the statistics of calls, strangers.mu the
// connections without a token, tokens.mu the memory of unused tokens, hangups.mu the
// watched connections, streamFront.mu the streams of unused tokens. They are held for
// map access only and never while another is, except for tokens.mu: it is held while the
// library makes a token and streamFront notes it.
//
// # Files
//
// None. The streaming server listens on a TCP port, by default on the loopback.
//
// # Why not an error for a closed port of a port-forward
//
// A client (client-go) gives up its whole session, with all its connections, when its
// error stream says anything. The port's connection is closed instead; the log says why.
//
// # Why not DeadlineExceeded from ExecSync as a normal result
//
// One peer answers a timed out ExecSync with exit code -1. The kubelet maps the
// code DeadlineExceeded to a failed probe by timeout, crictl prints it, and
// critest wants an error; so an error it is.
package cri
