// Package cri is the wire: the RuntimeService and ImageService of the
// Kubernetes CRI v1, the streaming server behind Exec, Attach and PortForward,
// and berth's own operator service.
//
// # What it owns
//
// Decoding and validation of requests, one call of the domain, encoding of
// what it says. The only table from errors to gRPC codes ([toStatus]). The
// interceptors: readiness, log line, counters, panics. The in-flight map.
//
// # Invariants
//
//   - A handler is decode and validate → one domain call → encode.
//   - Every mutating call runs detached from its client's context ([flights]).
//     A client that gave up and retries joins the call that is running. A pull
//     that no client has waited for during 30 s is cancelled.
//   - RunPodSandbox and CreateContainer are idempotent: see "Retries".
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
// # Retries
//
// A pod sandbox is known by (name, namespace, uid, attempt), a container by
// (pod, name, attempt). A call for a name that is being made joins the making
// when the request is the same, and is told to wait (Aborted) when it differs.
// A call for a name that exists gets the existing ID when nothing can tell the
// difference: same request, pod ready and still empty, or container created
// and never started. That is what a retry after a lost answer looks like, and
// also after a restart of the daemon. Every other existing name is
// AlreadyExists, with the ID in the text. The kubelet lists before it runs a
// pod and raises the attempt, so it meets AlreadyExists only by mistake.
//
// # Locks
//
// flights.mu guards the in-flight map, counters.mu the counters, strangers.mu the
// connections without a token, tokens.mu the memory of unused tokens, hangups.mu the
// watched connections, streamFront.mu the streams of unused tokens. They are held for
// map access only and never while another is, except for tokens.mu: it is held while the
// library makes a token and streamFront notes it.
//
// # Files
//
// None. The streaming server listens on a loopback TCP port.
//
// # Why not keep results for clients that gave up
//
// A cache of unfetched results needs a bound, a lifetime and a guess whether an
// answer arrived; it forgets at a restart. The records already say what exists,
// and whether it was used says whether the answer can have mattered.
//
// # Why a closed port is no error of a port-forward
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
